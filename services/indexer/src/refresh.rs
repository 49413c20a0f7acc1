//! Makes what was written searchable, soon and not more often than needed.
//!
//! One refresh at a time, none when nothing was written. What is written while one runs waits for the next, and
//! refreshes take at most a third of the time on average: under heavy load, when each costs more, they get rarer. A single slow
//! one, which met a merge, makes nobody wait twice.
//!
//! They get rarer still while the indexer is behind. A refresh makes a segment, in which Elasticsearch looks for each
//! further document's version, and merges it later; what was published a minute ago is not worth that ten times a second. So it
//! waits for a quarter of the age that the documents of full batches have anyway, or until no more of them come.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use commerce_core::{
    admin::Gate,
    elasticsearch::{ElasticsearchConfig, Error, body},
    trace::Span,
};
use elasticsearch::{Elasticsearch, indices::IndicesRefreshParts};
use hashbrown::HashSet;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    backoff::Backoff, batch::BatchId, invalidation::Invalidation, metrics::Metrics, problem::with_cause,
    target::Target, writer::Written,
};

const TIMEOUT: Duration = Duration::from_secs(30);
/// The pause after a refresh, as a multiple of the time that one takes on average…
const REST: f64 = 2.0;
/// So much of a refresh's time goes into the average.
const WEIGHT: f64 = 0.2;
/// … but between these.
const SHORTEST_REST: Duration = Duration::from_millis(40);
const LONGEST_REST: Duration = Duration::from_secs(1);
/// Documents wait for others no longer than this part of the age that they have when they are written…
const SHARE_OF_AGE: u32 = 4;
/// … nor longer than this, with which Elasticsearch takes most documents: what waits for a refresh costs it time as well…
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// … nor when no others have been written for so long…
const QUIET: Duration = Duration::from_millis(250);
/// … nor when there are as many (and as many users): this bounds the memory.
const MOST_WAITING: usize = 200_000;

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
    /// When its documents can wait no longer, as far as their age is concerned.
    until: Option<Instant>,
    /// When the last of them came.
    last: Option<Instant>,
    batches: Vec<BatchId>,
    users: HashSet<Box<str>>,
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
        let mut rest = Rest::default();
        while let Some(first) = self.next(&mut written).await {
            let mut pending = Pending::default();
            pending.add(first);
            loop {
                let due = pending.due().max(not_before);
                tokio::select! {
                    biased;
                    Some(more) = written.recv() => pending.add(more),
                    () = sleep_until(due) => break,
                }
            }
            if !pending.users.is_empty() {
                // First: should the alias be moved meanwhile, it leads to an index that is refreshed.
                self.target
                    .refresh(|problem| self.elasticsearch.fail(problem))
                    .await;
                let took = self.refresh().await;
                not_before = Instant::now() + rest.after(took);
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

/// What a refresh takes on average.
#[derive(Default)]
struct Rest(Option<Duration>);

impl Rest {
    /// The pause after a refresh that took so long.
    fn after(&mut self, took: Duration) -> Duration {
        let average = self.0.map_or(took, |average| {
            average.mul_f64(1.0 - WEIGHT) + took.mul_f64(WEIGHT)
        });
        self.0 = Some(average);
        average.mul_f64(REST).clamp(SHORTEST_REST, LONGEST_REST)
    }
}

impl Pending {
    /// When to refresh.
    fn due(&self) -> Instant {
        let (Some(until), Some(last)) = (self.until, self.last) else {
            return Instant::now();
        };
        if self.created.len().max(self.users.len()) >= MOST_WAITING {
            return last;
        }
        until.min(last + QUIET)
    }

    fn add(&mut self, written: Written) {
        let now = Instant::now();
        self.last = Some(now);
        let until = now + (written.age() / SHARE_OF_AGE).min(LONGEST_WAIT);
        self.until = Some(self.until.map_or(until, |before| before.min(until)));
        self.batches.push(written.batch);
        self.users.extend(written.users);
        self.created.extend(written.created);
        self.spans.extend(written.spans);
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn written(age: TimeDelta, orders: usize) -> Written {
        Written {
            newest: Some(Utc::now() - age),
            created: vec![Utc::now(); orders],
            ..Written::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_new_is_made_searchable_at_once_and_what_is_old_with_more_of_its_kind() {
        let mut new = Pending::default();
        new.add(written(TimeDelta::milliseconds(40), 1));
        assert!(new.due() < Instant::now() + Duration::from_millis(15));

        let began = Instant::now();
        let mut old = Pending::default();
        loop {
            old.add(written(TimeDelta::seconds(3), 1));
            tokio::time::advance(QUIET / 2).await;
            if old.due() <= Instant::now() {
                break;
            }
        }
        let waited = began.elapsed();
        assert!(
            (Duration::from_millis(700)..Duration::from_secs(1)).contains(&waited),
            "{waited:?}"
        );
        old = Pending::default();
        old.add(written(TimeDelta::seconds(3), 1));
        old.add(written(TimeDelta::milliseconds(40), 1));
        assert!(
            old.due() < Instant::now() + Duration::from_millis(15),
            "the new one waits for no old one"
        );
    }

    #[test]
    fn a_single_slow_refresh_hardly_lengthens_the_pause_and_many_do() {
        let mut rest = Rest::default();
        let usual = Duration::from_millis(30);
        for _ in 0..50 {
            assert_eq!(rest.after(usual), usual.mul_f64(REST));
        }
        assert!(rest.after(usual * 5) < usual.mul_f64(REST * 2.0));
        let slow = (0..50).map(|_| rest.after(usual * 5)).last().unwrap();
        assert!(slow > (usual * 5).mul_f64(REST * 0.99), "{slow:?}");
        let endless = (0..50).map(|_| rest.after(Duration::from_mins(1))).last();
        assert_eq!(endless, Some(LONGEST_REST));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_long_nor_when_nothing_else_comes_nor_without_a_bound() {
        let mut ancient = Pending::default();
        ancient.add(written(TimeDelta::days(400), 1));
        assert_eq!(ancient.due(), Instant::now() + QUIET);
        assert_eq!(ancient.until, Some(Instant::now() + LONGEST_WAIT));
        ancient.add(written(TimeDelta::days(400), MOST_WAITING));
        assert!(ancient.due() <= Instant::now());

        let mut undated = Pending::default();
        undated.add(Written::default());
        assert!(undated.due() <= Instant::now(), "a clock that nobody knows");
    }
}
