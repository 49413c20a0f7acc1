//! The operator with hundreds of pipelines: how long it takes, what it costs, and what it does when there is nothing to do.
//!
//! API server, etcd and the four stores are real. There are no nodes and no controllers: the bench plays what they would do
//! (see [`stand_in`]), and the services' `/status`. Each pipeline has a schema, topics, an index and keys of its own.

mod cluster;
mod pipelines;
mod stand_in;
mod table;

use std::{collections::BTreeMap, io::Write as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tokio::time::{Instant, sleep};

use self::{
    cluster::{Cluster, Requests},
    pipelines::{Pipelines, Stores},
    table::{Cost, Measured, Rest, Restart},
};
use crate::{
    cpu,
    program::{Program, beside, free_address},
    report, repository,
};

/// How many are measured.
pub const PIPELINES: u32 = 500;
/// Longest that any of it may take.
const PATIENCE: Duration = Duration::from_mins(20);
/// After this all that came in the wake of something else is over.
const CALM: Duration = Duration::from_secs(45);

/// How to measure.
pub struct Options {
    pub pipelines: u32,
    /// How long the operator is watched at rest.
    pub rest: Duration,
}

/// An operator that runs.
struct Operator {
    program: Program,
    metrics: String,
    started: Instant,
}

/// Measures, prints, and writes the table.
pub async fn run(options: Options) -> Result<()> {
    let repository = repository::folder()?;
    let (cluster, stores) = tokio::try_join!(Cluster::start(&repository), Stores::start())?;
    let pipelines = Pipelines::create(&cluster, &stores, options.pipelines).await?;
    let _stand_in = stand_in::play(&cluster.client).await?;

    let operator = Operator::start(&cluster).await?;
    operator.until_ready(options.pipelines).await?;
    let converged = operator.cost()?;
    sleep(CALM).await;
    let rest = operator.rest(&cluster, &pipelines, options.rest).await?;
    let first = operator.requests().await?;
    operator.program.stop().await?;

    let before = pipelines.versions(&cluster).await?;
    let operator = Operator::start(&cluster).await?;
    operator.until_ready(options.pipelines).await?;
    let cost = operator.cost()?;
    let requests = operator.requests().await?;
    let changed = pipelines.changed_since(&cluster, &before).await?;
    sleep(CALM).await;
    let peak = operator.program.peak_memory()?;
    operator.program.stop().await?;
    let restart = Restart {
        cost,
        requests,
        changed,
        peak,
    };

    let measured = Measured {
        pipelines: options.pipelines,
        converged,
        requests: first,
        rest,
        restart,
    };
    write!(std::io::stdout(), "{measured}")?;
    if options.pipelines == PIPELINES {
        report::write(&repository, "bench-operator", &measured.to_string())?;
    }
    Ok(())
}

impl Operator {
    /// With the chart's settings; the log tells of what goes wrong only.
    async fn start(cluster: &Cluster) -> Result<Self> {
        let admin = free_address()?;
        let mut command = beside("commerce-operator")?;
        command
            .arg("run")
            .env("KUBECONFIG", &cluster.kubeconfig)
            .env("ADMIN_ADDR", admin.to_string())
            .env("LOG_LEVEL", "warn")
            .env("LOG_FORMAT", "text")
            .env("MALLOC_ARENA_MAX", "1")
            .env("POD_NAME", "bench")
            .env("POD_NAMESPACE", "default");
        let started = Instant::now();
        let mut program = Program::start(command)?;
        program.answers(&format!("http://{admin}/readyz")).await?;
        Ok(Self {
            program,
            metrics: format!("http://{admin}/metrics"),
            started,
        })
    }

    /// Waits until it has looked at all pipelines and found all of them ready.
    async fn until_ready(&self, pipelines: u32) -> Result<()> {
        let mut told = Instant::now();
        loop {
            let metrics = self.metrics().await?;
            let ready = number(&metrics, r#"commerce_operator_pipelines{ready="true"}"#);
            if ready >= f64::from(pipelines) {
                return Ok(());
            }
            let waited = self.started.elapsed();
            ensure!(
                waited < PATIENCE,
                "{ready} of {pipelines} pipelines are ready after {} s",
                waited.as_secs()
            );
            if told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                writeln!(
                    std::io::stderr(),
                    "{ready} of {pipelines} are ready after {} s",
                    waited.as_secs()
                )?;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn cost(&self) -> Result<Cost> {
        Ok(Cost {
            took: self.started.elapsed(),
            cpu: cpu::of_tree(self.program.id())?,
            peak: self.program.peak_memory()?,
        })
    }

    /// What it does while nothing happens.
    async fn rest(&self, cluster: &Cluster, pipelines: &Pipelines, long: Duration) -> Result<Rest> {
        let versions = pipelines.versions(cluster).await?;
        let (requests, written) = (self.requests().await?, cluster.written().await?);
        let (cpu, passes) = (cpu::of_tree(self.program.id())?, self.passes().await?);
        let kubernetes = cluster.cpu()?;
        sleep(long).await;
        let requests = since(self.requests().await?, &requests);
        Ok(Rest {
            long,
            cpu: cpu::of_tree(self.program.id())?.saturating_sub(cpu),
            kubernetes: cluster.cpu()?.saturating_sub(kubernetes),
            passes: self.passes().await? - passes,
            written: since(cluster.written().await?, &written),
            requests,
            changed: pipelines.changed_since(cluster, &versions).await?,
            peak: self.program.peak_memory()?,
        })
    }

    async fn passes(&self) -> Result<f64> {
        Ok(number(
            &self.metrics().await?,
            "commerce_operator_reconciles_total",
        ))
    }

    /// Requests to the API server by verb, as the operator counts them.
    async fn requests(&self) -> Result<Requests> {
        let metrics = self.metrics().await?;
        Ok(cluster::requests(
            &metrics,
            "commerce_operator_api_requests_total",
            |_, _| true,
        ))
    }

    async fn metrics(&self) -> Result<String> {
        let answer = reqwest::get(&self.metrics)
            .await
            .context("asking the operator for its metrics")?;
        Ok(answer.error_for_status()?.text().await?)
    }
}

fn since(mut now: Requests, before: &Requests) -> Requests {
    for (what, count) in &mut now {
        *count -= before.get(what).copied().unwrap_or_default();
    }
    now.retain(|_, count| *count > 0);
    now
}

/// The value of one series; 0 where there is none yet.
fn number(metrics: &str, series: &str) -> f64 {
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    value.unwrap_or_default()
}

/// Resource versions by the objects' kinds, namespaces and names.
type Versions = BTreeMap<String, String>;
