//! The least that indexing costs: documents that are in memory already, posted by nothing but an HTTP client.

use std::{io::Write as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use commerce_core::elasticsearch::ElasticsearchConfig;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Bench, TIMEOUT,
    table::{BARE, Row},
};

const SIZES: [u32; 4] = [500, 1_000, 2_000, 5_000];
const PARALLEL: [usize; 3] = [1, 2, 4];
/// Documents of an attempt.
const TRIED: u32 = 50_000;

/// Documents in a request, and requests at a time.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    size: u32,
    parallel: usize,
}

#[derive(Deserialize)]
struct Answer {
    errors: bool,
}

impl Bench {
    /// The fastest of those that are tried.
    pub(super) async fn best_load(&self) -> Result<Load> {
        let mut best: Option<(f64, Load)> = None;
        for round in 0..2 {
            for size in SIZES {
                let bodies = self.orders.bodies(TRIED, size)?;
                for parallel in PARALLEL {
                    let index = self.index(&format!("tried-{round}-{size}-{parallel}")).await?;
                    let took = load(&index, &bodies, parallel).await?;
                    self.drop(&index).await?;
                    let rate = f64::from(TRIED) / took.as_secs_f64();
                    // The first round is Elasticsearch's warm-up.
                    if round > 0 && best.is_none_or(|(fastest, _)| rate > fastest) {
                        best = Some((rate, Load { size, parallel }));
                    }
                }
            }
        }
        let (rate, load) = best.context("no load was tried")?;
        writeln!(
            std::io::stdout(),
            "The best loads have {} documents, {} at a time: {rate:.0} documents/s.",
            load.size,
            load.parallel
        )?;
        Ok(load)
    }

    pub(super) async fn bare_loader(&self, best: Load) -> Result<Row> {
        let bodies = self.orders.bodies(self.orders.count, best.size)?;
        let index = self.index("bare").await?;
        self.at_rest().await?;
        let before = self.stores()?;
        let took = load(&index, &bodies, best.parallel).await?;
        let after = self.stores()?;
        self.check(&index, self.orders.count).await?;
        self.drop(&index).await?;
        Ok(Row {
            name: format!("{BARE}, {} documents, {} at a time", best.size, best.parallel),
            rate: f64::from(self.orders.count) / took.as_secs_f64(),
            program: None,
            stores: [0, 1].map(|store| after[store].saturating_sub(before[store]) / self.orders.count),
            memory: None,
        })
    }
}

pub(super) async fn load(
    config: &ElasticsearchConfig,
    bodies: &[Bytes],
    parallel: usize,
) -> Result<Duration> {
    let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
    let url = config
        .url
        .join(&format!("{}/_bulk?filter_path=errors", config.index))?;
    let began = Instant::now();
    stream::iter(bodies)
        .map(|body| {
            let request = client
                .post(url.clone())
                .header("content-type", "application/x-ndjson")
                .body(body.clone());
            async move {
                let answer: Answer =
                    serde_json::from_slice(&request.send().await?.error_for_status()?.bytes().await?)?;
                ensure!(!answer.errors, "Elasticsearch refuses documents");
                Ok(())
            }
        })
        .buffer_unordered(parallel)
        .try_collect::<()>()
        .await?;
    Ok(began.elapsed())
}
