//! Makes what was written searchable, soon and not more often than needed.
//!
//! One refresh at a time, none when nothing was written. What is written while one runs waits for the next, and
//! refreshes take at most a fifth of the time: under heavy load, when each costs more, they get rarer.

use std::{collections::HashSet, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use commerce_core::{
    admin::Gate,
    elasticsearch::{ElasticsearchConfig, Error, body},
    trace::Span,
};
use elasticsearch::{Elasticsearch, indices::IndicesRefreshParts};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    backoff::Backoff, batch::BatchId, invalidation::Invalidation, metrics::Metrics, problem::with_cause,
    target::Target, writer::Written,
};

const TIMEOUT: Duration = Duration::from_secs(30);
/// The pause after a refresh, as a multiple of the time it took…
const REST: u32 = 4;
/// … but between these.
const SHORTEST_REST: Duration = Duration::from_millis(40);
const LONGEST_REST: Duration = Duration::from_secs(1);

pub(crate) struct Refresher {
    client: Elasticsearch,
    index: String,
    target: Arc<Target>,
    invalidation: Invalidation,
    metrics: Metrics,
    elasticsearch: Gate,
}

/// What the next refresh makes searchable.
#[derive(Default)]
struct Pending {
    batches: Vec<BatchId>,
    users: HashSet<String>,
    created: Vec<DateTime<Utc>>,
    spans: Vec<Span>,
}

impl Refresher {
    pub(crate) fn new(
        config: &ElasticsearchConfig,
        target: Arc<Target>,
        invalidation: Invalidation,
        metrics: Metrics,
        elasticsearch: Gate,
    ) -> Result<Self, Error> {
        let client = config.client(TIMEOUT)?;
        Ok(Self {
            client,
            index: config.index.clone(),
            target,
            invalidation,
            metrics,
            elasticsearch,
        })
    }

    /// Takes batches that are written and gives back those that are settled: searchable, and no cached answer is older.
    /// Ends when `written` does.
    pub(crate) async fn run(
        mut self,
        mut written: mpsc::Receiver<Written>,
        settled: mpsc::UnboundedSender<BatchId>,
    ) {
        self.invalidation.probe().await;
        let mut not_before = Instant::now();
        while let Some(first) = self.next(&mut written).await {
            let mut pending = Pending::default();
            pending.add(first);
            let rest = sleep_until(not_before);
            tokio::pin!(rest);
            loop {
                tokio::select! {
                    biased;
                    Some(more) = written.recv() => pending.add(more),
                    () = &mut rest => break,
                }
            }
            if !pending.users.is_empty() {
                // First: should the alias be moved meanwhile, it leads to an index that is refreshed.
                self.target
                    .refresh(|problem| self.elasticsearch.fail(problem))
                    .await;
                let took = self.refresh().await;
                not_before = Instant::now() + (took * REST).clamp(SHORTEST_REST, LONGEST_REST);
                drop(pending.spans);
                let now = Utc::now();
                self.metrics.searchable(
                    pending
                        .created
                        .iter()
                        .map(|at| (now - at).to_std().unwrap_or_default()),
                );
                self.invalidation.invalidate(pending.users).await;
            }
            for batch in pending.batches {
                // Nobody waits for it any more when the pipeline has ended.
                let _ = settled.send(batch);
            }
        }
    }

    /// The next batch; meanwhile, invalidations that failed are repeated.
    async fn next(&mut self, written: &mut mpsc::Receiver<Written>) -> Option<Written> {
        loop {
            let due = self.invalidation.due();
            tokio::select! {
                biased;
                batch = written.recv() => return batch,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.invalidation.retry_when_due().await;
                }
            }
        }
    }

    /// Refreshes until that has succeeded; tells how long the successful one took.
    async fn refresh(&self) -> Duration {
        let mut backoff = Backoff::new();
        loop {
            let start = Instant::now();
            let answer = self
                .client
                .indices()
                .refresh(IndicesRefreshParts::Index(&[&self.index]))
                .send()
                .await;
            match body("refresh the index", answer)
                .await
                .map(|answer| answer["_shards"]["failed"].as_u64())
            {
                Ok(None | Some(0)) => {
                    self.elasticsearch.pass();
                    self.metrics.refreshed(start.elapsed());
                    return start.elapsed();
                }
                Ok(Some(failed)) => {
                    self.elasticsearch.fail(format!(
                        "refreshing the index {} failed on {failed} shards",
                        self.index
                    ));
                }
                Err(error) => self.elasticsearch.fail(with_cause(&error)),
            }
            backoff.wait().await;
        }
    }
}

impl Pending {
    fn add(&mut self, written: Written) {
        self.batches.push(written.batch);
        self.users.extend(written.users);
        self.created.extend(written.created);
        self.spans.extend(written.spans);
    }
}
