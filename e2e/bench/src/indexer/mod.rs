//! The indexer against a bare loader and Flink SQL, and the freshness of the whole pipeline.
//!
//! The loader posts the indexer's documents as bulk bodies that were made beforehand, in several sizes and so many at a time; the
//! best of them is measured. The indexer drains as many events from Kafka into an index of its own, on the same servers. Both
//! count what Elasticsearch has acknowledged; the indexer refreshes its index meanwhile, as it always does. They take turns, and the
//! run in the middle counts: what Elasticsearch has left over from one run falls into the next. The first turn does not count, as
//! Elasticsearch's compilers are at work until some million documents are through.

mod chain;
mod drain;
mod flink;
mod loader;
mod orders;
mod table;

use std::{io::Write as _, time::Duration};

use anyhow::{Result, ensure};
use commerce_core::{
    elasticsearch::{ElasticsearchConfig, body},
    index::{self, IndexSpec},
    testing::{Elasticsearch, Kafka, Redis},
};
use elasticsearch::{CountParts, indices::IndicesRefreshParts};

use self::{
    orders::Orders,
    table::{BARE, CHAIN, FLINK, HEAD, INDEXER, Row, targets},
};
use crate::{cpu, report, repository};

const TIMEOUT: Duration = Duration::from_mins(1);
/// How often the loader and the indexer take turns, after the first one.
const TURNS: usize = 5;

/// How to measure.
pub struct Options {
    pub events: u32,
    /// Only the measurement whose name has this in it.
    pub only: Option<String>,
}

struct Bench {
    orders: Orders,
    kafka: Kafka,
    elasticsearch: Elasticsearch,
    redis: Redis,
    /// For the services' admin ports. It costs more to make than a question.
    http: reqwest::Client,
}

/// Measures, prints, and writes the table.
pub async fn run(options: Options) -> Result<()> {
    let repository = repository::folder()?;
    let (kafka, elasticsearch, redis) =
        tokio::try_join!(Kafka::optimised(), Elasticsearch::optimised(), Redis::start())?;
    let bench = Bench {
        orders: Orders::new(options.events),
        kafka,
        elasticsearch,
        redis,
        http: reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?,
    };
    let wanted = |name: &str| options.only.as_ref().is_none_or(|only| name.contains(only));
    let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
    // It also warms Elasticsearch up, so it comes before whatever is measured.
    let best = bench.best_load().await?;
    let mut freshness = None;
    write!(stdout, "{HEAD}")?;
    let (mut bare, mut indexer) = (Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        if wanted(BARE) {
            let row = bench.bare_loader(best).await?;
            writeln!(stderr, "turn {turn}: {row}")?;
            bare.extend((turn > 0).then_some(row));
        }
        if wanted(INDEXER) {
            let row = bench.indexer(turn).await?;
            writeln!(stderr, "turn {turn}: {row}")?;
            indexer.extend((turn > 0).then_some(row));
        }
    }
    let mut rows = Vec::new();
    for turns in [bare, indexer] {
        if let Some(row) = middle(turns) {
            writeln!(stdout, "{row}")?;
            rows.push(row);
        }
    }
    if wanted(FLINK) {
        let row = bench.flink().await?;
        writeln!(stdout, "{row}")?;
        rows.push(row);
    }
    if wanted(CHAIN) {
        let measured = bench.chain().await?;
        writeln!(stdout, "\n{measured}")?;
        freshness = Some(measured);
    }
    let targets = targets(&rows, freshness.as_ref());
    write!(stdout, "{targets}")?;
    if options.only.is_none() {
        let rows: Vec<_> = rows.iter().map(ToString::to_string).collect();
        let chain = freshness
            .map(|freshness| freshness.to_string())
            .unwrap_or_default();
        let table = format!("{HEAD}{}\n\n{chain}\n{targets}", rows.join("\n"));
        report::write(&repository, "bench-indexer", &table)?;
    }
    Ok(())
}

/// Neither the fastest nor the slowest.
fn middle(mut rows: Vec<Row>) -> Option<Row> {
    rows.sort_by(|one, other| one.rate.total_cmp(&other.rate));
    let middle = rows.len().checked_sub(1)? / 2;
    Some(rows.swap_remove(middle))
}

impl Bench {
    /// An empty index behind an alias, as the operator makes it.
    async fn index(&self, alias: &str) -> Result<ElasticsearchConfig> {
        let config = ElasticsearchConfig::open(self.elasticsearch.url().clone(), alias);
        index::ensure(&config.client(TIMEOUT)?, &IndexSpec::new(alias)).await?;
        Ok(config)
    }

    /// So that Elasticsearch has nothing to do about it while others are measured.
    async fn drop(&self, index: &ElasticsearchConfig) -> Result<()> {
        Ok(index::delete(&index.client(TIMEOUT)?, &index.index).await?)
    }

    async fn at_rest(&self) -> Result<()> {
        cpu::at_rest(&[self.elasticsearch.id(), self.kafka.id()]).await
    }

    /// An error unless the index has each order once.
    async fn check(&self, config: &ElasticsearchConfig, documents: u32) -> Result<()> {
        let (client, alias) = (config.client(TIMEOUT)?, [config.index.as_str()]);
        let indices = client.indices();
        let refresh = indices.refresh(IndicesRefreshParts::Index(&alias));
        body("refresh the index", refresh.send().await).await?;
        let count = client.count(CountParts::Index(&alias)).send().await;
        let count = body("count documents", count).await?;
        ensure!(
            count["count"] == documents,
            "{} has {} documents, not {documents}",
            config.index,
            count["count"]
        );
        Ok(())
    }

    /// CPU time of Elasticsearch and Kafka so far.
    fn stores(&self) -> Result<[Duration; 2]> {
        Ok([
            cpu::of_tree(self.elasticsearch.id())?,
            cpu::of_tree(self.kafka.id())?,
        ])
    }
}
