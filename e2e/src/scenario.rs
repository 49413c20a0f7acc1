//! One end-to-end test: it runs alone, on a pipeline `shop` that is ready; afterwards it cleans up behind itself, and where it
//! failed it shows everything that was involved.

use std::{
    any::Any,
    cell::RefCell,
    collections::BTreeSet,
    fmt,
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use futures::{FutureExt as _, future::LocalBoxFuture};
use tokio::{sync::Mutex, time::timeout};

use crate::{
    cluster::Cluster,
    environment::Environment,
    pipeline::{Pipeline, READY},
};

/// No scenario takes longer than this, unless it says so, nor may cleaning up behind one.
const BOUND: Duration = Duration::from_secs(400);
/// Lines shown of each thing.
const SHOWN_LINES: usize = 60;
const OPERATOR_NAMESPACE: &str = "commerce-system";

/// Two cores carry one scenario at a time; and one that takes a store away would fail another's.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Set once `shop` was not ready in time: the scenarios after that one do not wait for long.
static GIVEN_UP: AtomicBool = AtomicBool::new(false);

type Cleanup = (String, LocalBoxFuture<'static, Result<()>>);

/// What a test body is given.
pub struct Scenario {
    pub cluster: Cluster,
    /// The pipeline that `make up` applied.
    pub shop: Pipeline,
    /// Namespaces to be shown where the scenario fails.
    involved: RefCell<BTreeSet<String>>,
    cleanups: RefCell<Vec<Cleanup>>,
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario")
            .field("involved", &self.involved)
            .finish_non_exhaustive()
    }
}

/// How a test ends.
pub type Outcome = Result<(), Failure>;

/// Why a test failed, from the outermost to the innermost reason.
pub struct Failure(anyhow::Error);

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons: Vec<String> = self.0.chain().map(ToString::to_string).collect();
        f.write_str(&reasons.join("\n  because: "))
    }
}

/// Runs a test body.
pub async fn scenario(body: impl AsyncFnOnce(&Scenario) -> Result<()>) -> Outcome {
    long_scenario(BOUND, body).await
}

/// Runs a test body that may take so long.
pub async fn long_scenario(bound: Duration, body: impl AsyncFnOnce(&Scenario) -> Result<()>) -> Outcome {
    let _alone = ALONE.lock().await;
    run(bound, body).await.map_err(Failure)
}

async fn run(bound: Duration, body: impl AsyncFnOnce(&Scenario) -> Result<()>) -> Result<()> {
    let cluster = Cluster::connect().await?;
    let shop = Pipeline::shop(&cluster);
    let involved = BTreeSet::from([shop.namespace.clone(), OPERATOR_NAMESPACE.to_owned()]);
    let scenario = Scenario {
        cluster,
        shop,
        involved: RefCell::new(involved),
        cleanups: RefCell::default(),
    };

    let work = async {
        begin(&scenario.shop).await?;
        body(&scenario).await
    };
    let outcome = bounded("the test", bound, work).await;
    if outcome.is_err() {
        let involved = scenario.involved.borrow().clone();
        show(&scenario.cluster.environment, &involved).await;
    }
    let cleaned = scenario.clean_up().await;
    outcome.and(cleaned)
}

/// Every scenario begins with a `shop` that is well, also where the one before it had to put it right.
async fn begin(shop: &Pipeline) -> Result<()> {
    let hint = "before the test began; `make up` makes a pipeline `shop` that is ready";
    shop.object().await.context(hint)?;
    let patience = if GIVEN_UP.load(Ordering::Relaxed) {
        Duration::from_secs(5)
    } else {
        READY
    };
    let ready = shop.ready_within(patience).await;
    GIVEN_UP.store(ready.is_err(), Ordering::Relaxed);
    ready.context(hint)
}

impl Scenario {
    /// Shows this namespace too where the scenario fails.
    pub fn involve(&self, namespace: &str) {
        self.involved.borrow_mut().insert(namespace.to_owned());
    }

    /// Runs `cleanup` when the scenario is over, however it ends; the last one first.
    pub fn afterwards(&self, what: impl Into<String>, cleanup: impl Future<Output = Result<()>> + 'static) {
        self.cleanups
            .borrow_mut()
            .push((what.into(), cleanup.boxed_local()));
    }

    /// Every cleanup runs, also where another has failed; the first error counts.
    async fn clean_up(&self) -> Result<()> {
        let mut outcome = Ok(());
        loop {
            let next = self.cleanups.borrow_mut().pop();
            let Some((what, cleanup)) = next else {
                return outcome;
            };
            let cleaned = bounded("cleaning up", BOUND, cleanup).await;
            outcome = outcome.and(cleaned.with_context(|| format!("afterwards: {what}")));
        }
    }
}

/// Turns a panic, and a time that is over, into an error.
async fn bounded(what: &str, bound: Duration, work: impl Future<Output = Result<()>>) -> Result<()> {
    match timeout(bound, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(anyhow!("{}", message(panic.as_ref()))),
        Err(_) => Err(anyhow!("{what} took more than {} s", bound.as_secs())),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message")
}

/// Prints what a person would look at first, namespace by namespace.
async fn show(environment: &Environment, namespaces: &BTreeSet<String>) {
    let objects = "commercepipelines,deployments,statefulsets,jobs,pods,ingresses";
    let conditions = "jsonpath={range .items[*]}{.metadata.name}:{\"\\n\"}{range .status.conditions[*]}  {.type}={.status} \
                      {.reason}: {.message}{\"\\n\"}{end}{end}";
    for namespace in namespaces {
        eprintln!("\n======== the namespace {namespace} ========");
        let get = |what, output| ["get", what, "-n", namespace, "-o", output];
        show_command(environment, "objects", &get(objects, "wide")).await;
        show_command(environment, "conditions", &get("commercepipelines", conditions)).await;
        let events = [
            "get",
            "events",
            "-n",
            namespace,
            "--sort-by=.metadata.creationTimestamp",
        ];
        show_command(environment, "events", &events).await;
        let pods = environment
            .kubectl(&get("pods", "name"))
            .await
            .unwrap_or_default();
        for pod in pods.lines() {
            let logs = [
                "logs",
                "-n",
                namespace,
                pod,
                "--all-containers",
                "--prefix",
                "--tail=50",
            ];
            show_command(environment, &format!("log of {pod}"), &logs).await;
            let counts = "jsonpath={.status.containerStatuses[*].restartCount}";
            let counts = environment.kubectl(&get(pod, counts)).await.unwrap_or_default();
            if counts.split_whitespace().any(|count| count != "0") {
                let previous = [logs.as_slice(), &["--previous"]].concat();
                show_command(
                    environment,
                    &format!("log of {pod} before its restart"),
                    &previous,
                )
                .await;
            }
        }
    }
}

/// Prints the end of what a kubectl command says.
async fn show_command(environment: &Environment, what: &str, arguments: &[&str]) {
    let printed = environment.kubectl(arguments).await;
    let printed = printed.unwrap_or_else(|error| format!("{error:#}"));
    let lines: Vec<&str> = printed.lines().collect();
    eprintln!(
        "\n---- {what}\n{}",
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    );
}
