//! From `POST /orders` to a search that finds the order: the whole pipeline, at half of the rate that it takes at most.

use std::{fmt, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use commerce_core::{kafka::KafkaConfig, testing::Postgres};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::{
    Bench,
    drain::{create_topics, indexed},
};
use crate::{
    postgres,
    program::{Program, beside, free_address},
    repository, wrk,
};

const CONNECTIONS: u32 = 64;
const SKUS: &str = "1000";
const PEAK_TIME: Duration = Duration::from_secs(20);
const TIME: Duration = Duration::from_mins(2);
const WARM_UP: Duration = Duration::from_secs(10);
/// How long orders may take to be indexed after the last of them.
const PATIENCE: Duration = Duration::from_mins(2);

/// What was measured.
pub struct Freshness {
    /// Orders a second, at most and while it was measured.
    peak: f64,
    rate: f64,
    orders: u64,
    pub p50: Duration,
    pub p99: Duration,
}

/// The indexer's status, as far as it matters here.
#[derive(Deserialize)]
struct Status {
    freshness: Summary,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    orders: u64,
    p50_seconds: Option<f64>,
    p99_seconds: Option<f64>,
}

struct Chain<'a> {
    bench: &'a Bench,
    variables: Vec<(&'static str, String)>,
    api: String,
}

impl Bench {
    pub(super) async fn chain(&self) -> Result<Freshness> {
        let postgres = Postgres::start().await?;
        postgres::fill_wal(&postgres).await?;
        let kafka = KafkaConfig::plaintext(self.kafka.bootstrap(), "chain.");
        create_topics(&kafka).await?;
        let index = self.index("chain").await?;
        let address = free_address()?;
        let chain = Chain {
            bench: self,
            variables: vec![
                ("DATABASE_URL", postgres.url()),
                ("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap_servers.clone()),
                ("KAFKA_TOPIC_PREFIX", kafka.topic_prefix.clone()),
                ("ELASTICSEARCH_URL", index.url.to_string()),
                ("ELASTICSEARCH_INDEX", index.index.clone()),
                ("REDIS_URL", self.redis.url()),
                ("LOG_LEVEL", "warn".to_owned()),
            ],
            api: format!("http://{address}"),
        };
        chain.migrate().await?;
        let (mut api, _) = chain.start("api", &[("HTTP_ADDR", address.to_string())])?;
        api.answers(&format!("{}/products", chain.api)).await?;
        let (_relay, _) = chain.start("relay", &[])?;
        let (mut indexer, admin) = chain.start("indexer", &[])?;
        indexer.answers(&format!("{admin}/livez")).await?;

        let warm_up = chain.load("warm-up", WARM_UP, None).await?;
        let peak = chain.load("peak", PEAK_TIME, None).await?;
        chain
            .settled(&mut indexer, &admin, warm_up.requests + peak.requests)
            .await?;
        indexer.stop().await?;

        // A new one, whose figures are about what follows only.
        let (mut indexer, admin) = chain.start("indexer", &[])?;
        indexer.answers(&format!("{admin}/livez")).await?;
        // Between two orders of a connection there are the answer and the pause.
        let between = Duration::from_secs(1).mul_f64(f64::from(CONNECTIONS) / (peak.rate() / 2.0));
        let near = chain.load("near", WARM_UP, Some(between)).await?;
        let pause = between.mul_f64(near.rate() / (peak.rate() / 2.0));
        let load = chain.load("half", TIME, Some(pause)).await?;
        let orders = near.requests + load.requests;
        chain.settled(&mut indexer, &admin, orders).await?;
        let status: Status = serde_json::from_str(&self.get(&format!("{admin}/status")).await?)?;
        let seconds = |quantile: Option<f64>| {
            quantile
                .map(Duration::from_secs_f64)
                .context("the indexer tells no freshness")
        };
        Ok(Freshness {
            peak: peak.rate(),
            rate: load.rate(),
            orders: status.freshness.orders,
            p50: seconds(status.freshness.p50_seconds)?,
            p99: seconds(status.freshness.p99_seconds)?,
        })
    }

    pub(super) async fn get(&self, url: &str) -> Result<String> {
        Ok(self
            .http
            .get(url)
            .send()
            .await?
            .error_for_status()?
            .text()
            .await?)
    }
}

impl Chain<'_> {
    async fn migrate(&self) -> Result<()> {
        let migrated = beside("api")?
            .args(["migrate", "--seed-skus", SKUS, "--seed-stock", "1000000000"])
            .envs(self.variables.iter().cloned())
            .status()
            .await
            .context("running api migrate: is it built beside this program?")?;
        ensure!(migrated.success(), "api migrate: {migrated}");
        Ok(())
    }

    /// Starts one of the services; also gives the URL of its admin port.
    fn start(&self, name: &str, variables: &[(&str, String)]) -> Result<(Program, String)> {
        let address = free_address()?;
        let mut command = beside(name)?;
        command
            .arg("serve")
            .envs(self.variables.iter().cloned())
            .envs(variables.iter().cloned())
            .env("ADMIN_ADDR", address.to_string())
            .stdin(Stdio::null());
        Ok((Program::start(command)?, format!("http://{address}")))
    }

    /// Places orders; each connection pauses between two of them, if told.
    async fn load(&self, name: &str, time: Duration, pause: Option<Duration>) -> Result<wrk::Load> {
        let script = repository::folder()?.join("e2e/bench/load/orders.lua");
        let pause = pause.unwrap_or_default().as_millis().to_string();
        wrk::run(&self.api, &script, CONNECTIONS, time, &[name, SKUS, &pause]).await
    }

    /// Waits until all orders are searchable.
    async fn settled(&self, indexer: &mut Program, admin: &str, orders: f64) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let count = indexed(&self.bench.get(&format!("{admin}/metrics")).await?)?;
            if f64::from(count) >= orders {
                break;
            }
            indexer.runs()?;
            ensure!(Instant::now() < until, "{count} of {orders} orders are indexed");
            sleep(Duration::from_millis(100)).await;
        }
        // The last of them are written; now they are made searchable.
        sleep(Duration::from_secs(2)).await;
        Ok(())
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        write!(
            f,
            "The whole pipeline takes {:.0} orders/s at most, and at {:.0} orders/s ({} orders) an order can be found after \
             {:.0} ms (median; 99th percentile {:.0} ms).",
            self.peak,
            self.rate,
            self.orders,
            milliseconds(self.p50),
            milliseconds(self.p99),
        )
    }
}
