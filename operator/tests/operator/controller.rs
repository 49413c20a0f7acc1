//! What wakes the operator, and what can't stop it. The clock stands still but for waiting, so a minute takes no time.

use std::{sync::Arc, time::Duration};

use commerce_operator::{context::Context, controller, reconcile::kinds::KNOWN_FOR};
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    around::install_kinds,
    cluster::{Cluster, PIPELINE},
    fixtures::{minimal, stored},
    world::World,
};

const RELAY: &str = "/apis/apps/v1/namespaces/store/deployments/shop-relay";
/// Longer than any of this takes, unless it fails.
const LIMIT: Duration = Duration::from_mins(2);

/// An operator that works until the test ends.
struct Running {
    world: World,
    stop: CancellationToken,
    ended: JoinHandle<()>,
}

impl Running {
    /// One that has brought its pipeline to `Ready`, and is at rest.
    async fn ready(namespaces: &[&str]) -> Self {
        let world = World::ready(&[]).await;
        world.cluster.run_pods(&["relay", "indexer"]);
        world.pass().await.unwrap();
        assert_eq!(world.reason("Flowing"), "True Flowing");
        Self::start(world, namespaces).await
    }

    async fn start(world: World, namespaces: &[&str]) -> Self {
        let context = Arc::new(Context {
            namespaces: namespaces.iter().map(ToString::to_string).collect(),
            ..world.context.clone()
        });
        let stop = CancellationToken::new();
        let ended = tokio::spawn({
            let stop = stop.clone();
            async move { controller::run(context, 4, stop).await }
        });
        let running = Self { world, stop, ended };
        running.until(|cluster| ready(cluster, PIPELINE)).await;
        running
    }

    /// Waits for what the metrics should tell.
    async fn told(&self, series: &[&str]) {
        let wait = async {
            while !series.iter().all(|series| {
                self.world
                    .metrics()
                    .contains(&format!("commerce_operator_{series}\n"))
            }) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(LIMIT, wait)
            .await
            .unwrap_or_else(|_| panic!("{}", self.world.metrics()));
    }

    /// Waits for what the cluster should come to; how long that took.
    async fn until(&self, holds: impl Fn(&Cluster) -> bool) -> Duration {
        let started = Instant::now();
        let cluster = &self.world.cluster;
        let wait = async {
            while !holds(cluster) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LIMIT, wait).await.unwrap();
        started.elapsed()
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(LIMIT, self.ended).await.unwrap().unwrap();
    }
}

fn ready(cluster: &Cluster, path: &str) -> bool {
    reason(cluster, path) == "Running"
}

fn reason(cluster: &Cluster, path: &str) -> String {
    let pipeline = cluster.get(path).unwrap_or_default();
    let conditions = pipeline["status"]["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Ready");
    ready
        .and_then(|ready| ready["reason"].as_str())
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_deleted_child_is_back_within_two_seconds() {
    for namespaces in [&["store"][..], &["other", "store"], &[]] {
        let running = Running::ready(namespaces).await;
        running.world.cluster.remove(RELAY);
        let took = running.until(|cluster| cluster.get(RELAY).is_some()).await;
        assert!(took < Duration::from_secs(2), "{took:?}, watching {namespaces:?}");
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_child_of_a_kind_that_came_later_is_back_within_two_seconds() {
    const MONITOR: &str = "/apis/monitoring.coreos.com/v1/namespaces/store/podmonitors/shop";
    for namespaces in [&["store"][..], &[]] {
        let world = World::ready(&[("monitoring", json!({ "podMonitor": {} }))]).await;
        let running = Running::start(world, namespaces).await;
        install_kinds(&running.world);
        running.until(|cluster| cluster.get(MONITOR).is_some()).await;
        // It is watched not later than the next time that is asked which kinds there are.
        sleep(2 * KNOWN_FOR).await;
        running.world.cluster.remove(MONITOR);
        let took = running.until(|cluster| cluster.get(MONITOR).is_some()).await;
        assert!(took < Duration::from_secs(2), "{took:?}, watching {namespaces:?}");
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn other_namespaces_are_left_alone() {
    let running = Running::ready(&["store"]).await;
    let elsewhere = PIPELINE.replace("store", "elsewhere");
    let mut pipeline = stored(&minimal(), &[]);
    pipeline["metadata"]["namespace"] = json!("elsewhere");
    running.world.cluster.put(&elsewhere, pipeline);
    sleep(Duration::from_mins(5)).await;
    assert_eq!(
        running.world.cluster.get(&elsewhere).unwrap()["status"],
        Value::Null
    );
    running.end().await;
}

/// Requests that the operator counted: writes, and others.
fn requests(running: &Running) -> (u64, u64) {
    let (mut writes, mut reads) = (0, 0);
    let metrics = running.world.metrics();
    for series in metrics
        .lines()
        .filter_map(|line| line.strip_prefix("commerce_operator_api_requests_total"))
    {
        let count: u64 = series.rsplit_once(' ').unwrap().1.parse().unwrap();
        let is_read = ["get", "list", "watch"]
            .iter()
            .any(|verb| series.contains(&format!("verb=\"{verb}\"")));
        *if is_read { &mut reads } else { &mut writes } += count;
    }
    (writes, reads)
}

#[tokio::test(start_paused = true)]
async fn ten_idle_minutes_write_nothing() {
    let running = Running::ready(&["store"]).await;
    let (writes, reads) = requests(&running);
    let passes = running.world.context.metrics.reconciles.get();
    let version = running.world.cluster.version();
    running.world.everything();
    sleep(Duration::from_mins(10)).await;
    assert_eq!(running.world.cluster.version(), version);
    assert_eq!(running.world.everything(), Vec::<String>::new());
    let passes = running.world.context.metrics.reconciles.get() - passes;
    assert!(
        (15..=30).contains(&passes),
        "it looked {passes} times, and not twice a minute"
    );
    let (more_writes, more_reads) = requests(&running);
    assert_eq!(more_writes, writes, "the metrics tell the same");
    running
        .told(&[
            "in_backoff 0",
            r#"pipelines{ready="true"} 1"#,
            r#"pipelines{ready="false"} 0"#,
        ])
        .await;
    assert!(more_reads > reads + 100);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_for_a_minute_is_waited_for() {
    let running = Running::ready(&["store"]).await;
    let cluster = &running.world.cluster;
    cluster.go_away();
    cluster.remove(RELAY);
    sleep(Duration::from_mins(1)).await;
    cluster.come_back();
    let took = running.until(|cluster| cluster.get(RELAY).is_some()).await;
    assert!(took < Duration::from_secs(45), "{took:?}");
    running
        .until(|cluster| ready(cluster, PIPELINE) || reason(cluster, PIPELINE) == "Starting")
        .await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_that_can_not_be_read_stops_nobody_else() {
    let world = World::ready(&[]).await;
    let bad = PIPELINE.replace("shop", "bad");
    let mut pipeline = stored(&minimal(), &[]);
    pipeline["metadata"]["name"] = json!("bad");
    pipeline["spec"]["postgres"] = json!("a string");
    world.cluster.put(&bad, pipeline);
    let running = Running::start(world, &["store"]).await;
    running
        .until(|cluster| reason(cluster, &bad) == "Unreadable")
        .await;
    running.world.cluster.remove(RELAY);
    let took = running.until(|cluster| cluster.get(RELAY).is_some()).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    running.end().await;
}

/// The time between passes that fail grows to half a minute, and is never the same.
#[tokio::test(start_paused = true)]
async fn a_pipeline_that_fails_is_tried_again_later_and_later() {
    let running = Running::ready(&["store"]).await;
    running
        .world
        .cluster
        .remove("/api/v1/namespaces/store/secrets/pg");
    running
        .until(|cluster| reason(cluster, PIPELINE) == "SecretMissing")
        .await;
    running
        .told(&[
            "in_backoff 1",
            r#"pipelines{ready="false"} 1"#,
            r#"pipelines{ready="true"} 0"#,
            "in_flight 0",
        ])
        .await;
    let passes = || running.world.context.metrics.reconciles.get();
    let before = passes();
    sleep(Duration::from_mins(1)).await;
    let first = passes() - before;
    sleep(Duration::from_mins(9)).await;
    let later = passes() - before - first;
    assert!((4..=12).contains(&first), "{first} passes in the first minute");
    assert!(
        (18..=40).contains(&later),
        "{later} passes in the nine minutes after it"
    );
    let last = || format!("{:?}", running.world.stores.journal.lock().unwrap().last());
    assert!(!last().contains("apply"), "{}", last());
    running.end().await;
}
