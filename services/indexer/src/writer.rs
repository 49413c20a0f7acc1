//! A batch's way into the index: sent again and again until each document has its place there or in the dead-letter
//! topic.

use std::collections::HashSet;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use commerce_core::{admin::Gate, trace::Span};
use rdkafka::{Message as _, message::OwnedMessage};
use tokio::time::Instant;

use crate::{
    backoff::Backoff,
    batch::{Batch, BatchId, Item, Malformed},
    bulk::{BulkClient, Failure, Outcome},
    dead_letters::{DeadLetters, Reason},
    metrics::Metrics,
};

/// So often may Elasticsearch refuse documents for the time being before it is a matter for the readiness check: under
/// load it refuses some, now and then.
const NOTEWORTHY: u32 = 3;

/// What writes batches. Several may be on their way at once: the documents' versions make their order irrelevant.
pub(crate) struct Writer {
    pub(crate) bulk: BulkClient,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) metrics: Metrics,
    pub(crate) elasticsearch: Gate,
}

/// A batch that Elasticsearch has, but does not show in searches yet.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) batch: BatchId,
    /// Whose orders changed. Includes those that were in the index already: an indexer that ended before its refresh
    /// left them so.
    pub(crate) users: HashSet<String>,
    /// When the orders were created that have just come into the index.
    pub(crate) created: Vec<DateTime<Utc>>,
    /// Of the events that are traced. They end when the orders can be found.
    pub(crate) spans: Vec<Span>,
}

impl Written {
    /// Keeps the span of a document that is in the index now.
    fn trace(&mut self, mut span: Span, event: &'static str) {
        if span.is_recording() {
            span.event(event);
            self.spans.push(span);
        }
    }
}

/// An event that can't be indexed.
struct Dead {
    record: OwnedMessage,
    reason: Reason,
    error: String,
}

/// What is left to do after a bulk was answered.
struct Sorted {
    retry: Vec<Item>,
    /// Why the first of these has to be sent again.
    problem: Option<String>,
    rejected: Vec<Dead>,
}

impl Writer {
    pub(crate) async fn write(&self, mut batch: Batch) -> Written {
        let malformed = std::mem::take(&mut batch.malformed);
        let malformed = malformed.into_iter().map(|Malformed { record, error }| Dead {
            record,
            reason: Reason::Malformed,
            error,
        });
        // At the same time, so that neither Kafka nor Elasticsearch holds up what the other can do.
        tokio::join!(self.index(batch), self.bury(malformed.collect())).0
    }

    async fn index(&self, batch: Batch) -> Written {
        let body = Bytes::from(batch.body);
        let mut written = Written {
            batch: batch.id,
            ..Written::default()
        };
        let (mut attempts, mut backoff) = (0, Backoff::new());
        let mut groups = Vec::from([batch.items]);
        while let Some(mut group) = groups.pop() {
            if group.is_empty() {
                continue;
            }
            match self.send(&body, &group).await {
                Ok(outcomes) => {
                    let Sorted {
                        retry,
                        rejected,
                        problem,
                    } = self.sort(group, outcomes, &mut written);
                    self.bury(rejected).await;
                    let Some(problem) = problem else {
                        self.elasticsearch.pass();
                        attempts = 0;
                        backoff.reset();
                        continue;
                    };
                    attempts += 1;
                    if attempts >= NOTEWORTHY {
                        self.elasticsearch.fail(format!("indexing documents: {problem}"));
                    }
                    groups.push(retry);
                    backoff.wait().await;
                }
                Err(Failure::Transient(problem)) => {
                    self.elasticsearch.fail(problem);
                    self.metrics.retried(group.len());
                    groups.push(group);
                    backoff.wait().await;
                }
                Err(Failure::Refused(error)) if group.len() == 1 => {
                    let dead = |item: Item| Dead {
                        record: item.record,
                        reason: Reason::Rejected,
                        error,
                    };
                    self.bury(group.pop().map(dead).into_iter().collect()).await;
                }
                Err(Failure::Refused(_)) => {
                    let rest = group.split_off(group.len() / 2);
                    groups.extend([rest, group]);
                }
            }
        }
        written
    }

    async fn send(&self, body: &Bytes, group: &[Item]) -> Result<Vec<Outcome>, Failure> {
        let length: usize = group.iter().map(|item| item.lines.len()).sum();
        let body = if length == body.len() {
            body.clone()
        } else {
            let lines: Vec<_> = group.iter().map(|item| &body[item.lines.clone()]).collect();
            Bytes::from(lines.concat())
        };
        let start = Instant::now();
        let outcomes = self.bulk.send(body, group.len()).await?;
        self.metrics.bulk_answered(group.len(), start.elapsed());
        Ok(outcomes)
    }

    /// Gives back what is to be sent again, and what never will be taken.
    fn sort(&self, group: Vec<Item>, outcomes: Vec<Outcome>, written: &mut Written) -> Sorted {
        let (mut indexed, mut conflicts) = (0, 0);
        let (mut retry, mut rejected) = (Vec::new(), Vec::new());
        let mut problem = None;
        for (mut item, outcome) in group.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Indexed => {
                    indexed += 1;
                    written.trace(item.span, "indexed");
                    written.created.extend(item.created_at);
                    written.users.insert(item.user_id);
                }
                Outcome::Conflict => {
                    conflicts += 1;
                    written.trace(item.span, "indexed before");
                    written.users.insert(item.user_id);
                }
                Outcome::Rejected(error) => {
                    item.span.fail(error.clone());
                    rejected.push(Dead {
                        record: item.record,
                        reason: Reason::Rejected,
                        error,
                    });
                }
                Outcome::Retry(error) => {
                    problem.get_or_insert(error);
                    retry.push(item);
                }
            }
        }
        self.metrics.indexed(indexed, conflicts);
        self.metrics.retried(retry.len());
        Sorted {
            retry,
            problem,
            rejected,
        }
    }

    /// Returns when the dead-letter topics have them all.
    async fn bury(&self, dead: Vec<Dead>) {
        let Some(first) = dead.first() else { return };
        let (topic, partition, offset) = (
            first.record.topic(),
            first.record.partition(),
            first.record.offset(),
        );
        let (events, error) = (dead.len(), &first.error);
        tracing::warn!(
            events,
            topic,
            partition,
            offset,
            error,
            "moving events to the dead-letter topic; the first"
        );
        let letters = dead
            .iter()
            .map(|dead| self.dead_letters.send(&dead.record, dead.reason, &dead.error));
        futures::future::join_all(letters).await;
        self.metrics.dead_lettered(events);
    }
}
