//! Pods of the pipeline and of its stores come and go while orders are placed: none is lost, none is doubled.

use std::{cell::Cell, time::Duration};

use anyhow::{Context as _, Result, ensure};
use commerce_e2e::{
    cluster::Cluster,
    eventually::eventually,
    orders::{Order, Orders, new_user},
    pipeline::{Pipeline, name, uid},
    scenario::{Outcome, scenario},
    stores,
};
use tokio::time::{MissedTickBehavior, interval};

/// At least so many orders, at this pace; it goes on for as long as the disturbance does.
const ORDERS: usize = 200;
const PACE: Duration = Duration::from_millis(100);
const STORE_BACK: Duration = Duration::from_secs(150);
const ALL_FOUND: Duration = Duration::from_secs(90);

#[tokio::test]
async fn restarts_lose_nothing_and_double_nothing() -> Outcome {
    scenario(async |s| {
        let orders = Orders::through_ingress(&s.cluster, None)?;
        let user = new_user();
        let (placed, over) = (Cell::new(0), Cell::new(false));

        let ordering = async {
            let mut ids = Vec::new();
            let mut pace = interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while ids.len() < ORDERS || !over.get() {
                pace.tick().await;
                ids.push(orders.place_persistently(&Order::of(&user)).await?);
                placed.set(ids.len());
            }
            Ok(ids)
        };
        let disturbing = async {
            let outcome = disturb(&s.cluster, &s.shop, &placed).await;
            over.set(true);
            outcome
        };
        let (ids, disturbed) = tokio::join!(ordering, disturbing);
        let ids: Vec<String> = ids.and_then(|ids| disturbed.map(|()| ids))?;

        let mut distinct = ids.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), ids.len(), "one id, one order");
        orders.finds(&user, &ids, ALL_FOUND).await?;
        s.shop.ready().await?;

        let mut shop = stores::postgres(&s.cluster, None).await?;
        let query = "select count(*) filter (where status = 'SENT'), count(*) from outbox_events where payload ->> 'userId' = $1";
        let counts: (i64, i64) = sqlx::query_as(query).bind(&user).fetch_one(&mut shop.connection).await?;
        let count = i64::try_from(ids.len())?;
        assert_eq!(counts, (count, count), "each order has one event, and it is sent");
        Ok(())
    })
    .await
}

/// Each restart comes when some more orders were placed, so that there is something to lose.
async fn disturb(cluster: &Cluster, shop: &Pipeline, placed: &Cell<usize>) -> Result<()> {
    for component in ["relay", "indexer", "api"] {
        more_orders(placed).await?;
        // One API pod, so that the other one can answer; all of the others at once.
        let mut pods = shop.pods(component).await?;
        ensure!(!pods.is_empty(), "there are no pods of {component}");
        pods.truncate(if component == "api" { 1 } else { usize::MAX });
        for pod in pods {
            kill(cluster, shop.namespace.as_str(), name(&pod)).await?;
        }
    }
    for store in ["stores-kafka", "stores-elasticsearch"] {
        more_orders(placed).await?;
        let before = stores::pods(cluster, store).await?;
        let before = before.first().with_context(|| format!("{store} has no pod"))?;
        kill(cluster, stores::NAMESPACE, name(before)).await?;
        eventually(&format!("{store} is back"), STORE_BACK, async || {
            let now = stores::pods(cluster, store).await?;
            let back = now
                .iter()
                .any(|pod| uid(pod) != uid(before) && stores::is_ready(pod));
            ensure!(
                back,
                "its pods: {:?}",
                now.iter().map(|pod| &pod["status"]["phase"]).collect::<Vec<_>>()
            );
            Ok(())
        })
        .await?;
    }
    more_orders(placed).await
}

async fn more_orders(placed: &Cell<usize>) -> Result<()> {
    let wanted = placed.get() + 20;
    eventually("more orders are placed", Duration::from_mins(1), async || {
        ensure!(placed.get() >= wanted, "{} orders are placed", placed.get());
        Ok(())
    })
    .await
}

/// Ends a pod with one second to stop by itself: SIGTERM, and soon SIGKILL. Its successor is made when its containers are gone.
async fn kill(cluster: &Cluster, namespace: &str, pod: &str) -> Result<()> {
    let arguments = [
        "delete",
        "pod",
        "-n",
        namespace,
        pod,
        "--grace-period=1",
        "--wait=false",
    ];
    cluster.environment.kubectl(&arguments).await.map(drop)
}
