//! A batch's way into the index: sent again and again until each document has its place there or in the dead-letter
//! topic.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use commerce_core::{admin::Gate, trace::Span};
use hashbrown::HashSet;
use rdkafka::{Message as _, message::BorrowedMessage};

use crate::{
    batch::{Batch, BatchId, Item, Malformed},
    bulk::BulkClient,
    dead_letters::{DeadLetters, Reason},
    delivery::{Answer, Delivery, Lines, Settled},
    metrics::Metrics,
    sizing::Sizing,
    target::Target,
};

/// So often may Elasticsearch refuse documents for the time being before it is a matter for the readiness check: under
/// load it refuses some, now and then.
const NOTEWORTHY: u32 = 3;

/// What writes batches. Several may be on their way at once: the documents' versions make their order irrelevant.
pub(crate) struct Writer {
    pub(crate) bulk: BulkClient,
    pub(crate) target: Arc<Target>,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) metrics: Metrics,
    pub(crate) elasticsearch: Gate,
    pub(crate) sizing: Arc<Sizing>,
}

/// A batch that Elasticsearch has, but does not show in searches yet.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) batch: BatchId,
    /// Whose orders changed. Includes those that were in the index already: an indexer that ended before its refresh
    /// left them so.
    pub(crate) users: HashSet<Box<str>>,
    /// When the orders were created that have just come into the index.
    pub(crate) created: Vec<DateTime<Utc>>,
    /// When the newest of its events was published, where the batch was full. Else the indexer keeps up, and an age would
    /// tell of nothing but the clocks of two machines.
    pub(crate) newest: Option<DateTime<Utc>>,
    /// Of the events that are traced. They end when the orders can be found.
    pub(crate) spans: Vec<Span>,
}

impl Written {
    /// How old its newest event is, where more may wait.
    pub(crate) fn age(&self) -> Duration {
        let age = self.newest.map(|newest| Utc::now() - newest);
        age.and_then(|age| age.to_std().ok()).unwrap_or_default()
    }

    /// Keeps the span of a document that is in the index now.
    fn trace(&mut self, mut span: Span, event: &'static str) {
        if span.is_recording() {
            span.event(event);
            self.spans.push(span);
        }
    }
}

/// An event that can't be indexed.
struct Dead<'c> {
    record: BorrowedMessage<'c>,
    reason: Reason,
    error: String,
}

impl Writer {
    /// Gives the batch's body back, empty.
    pub(crate) async fn write(&self, mut batch: Batch<'_>) -> (Written, Vec<u8>) {
        let malformed = std::mem::take(&mut batch.malformed);
        let malformed = malformed.into_iter().map(|Malformed { record, error }| Dead {
            record,
            reason: Reason::Malformed,
            error,
        });
        // At the same time, so that neither Kafka nor Elasticsearch holds up what the other can do.
        tokio::join!(self.index(batch), self.bury(malformed.collect())).0
    }

    async fn index(&self, batch: Batch<'_>) -> (Written, Vec<u8>) {
        let mut written = Written {
            batch: batch.id,
            newest: batch.newest.filter(|_| batch.full),
            users: batch.users,
            ..Written::default()
        };
        let mut attempts = 0;
        let body = Bytes::from(batch.body);
        let away = |problem| self.elasticsearch.fail(problem);
        if !batch.items.is_empty() && self.target.is_there(away).await {
            let lines = batch.items.iter().map(Lines::lines).collect();
            self.target.write(body.clone(), lines, away).await;
        }
        let mut delivery = Delivery::new(body, batch.items);
        self.sizing.begin();
        while let Some(answer) = delivery.next(&self.bulk).await {
            match answer {
                Answer::Each { settled, again, took } => {
                    let retried = again.as_ref().map_or(0, |(documents, _)| *documents);
                    let documents = settled.len() + retried;
                    self.metrics.bulk_answered(documents, took);
                    self.metrics.retried(retried);
                    let rejected = self.sort(settled, &mut written);
                    self.bury(rejected).await;
                    if let Some((_, problem)) = again {
                        self.sizing.refused(documents);
                        attempts += 1;
                        if attempts >= NOTEWORTHY {
                            self.elasticsearch.fail(format!("indexing documents: {problem}"));
                        }
                    } else {
                        self.sizing.answered(documents, took);
                        self.elasticsearch.pass();
                        attempts = 0;
                    }
                }
                Answer::Failed { documents, problem } => {
                    self.sizing.refused(documents);
                    self.elasticsearch.fail(problem);
                    self.metrics.retried(documents);
                }
            }
        }
        self.sizing.end();
        (written, delivery.into_buffer())
    }

    /// Gives back what will never be taken.
    fn sort<'c>(&self, settled: Vec<(Item<'c>, Settled)>, written: &mut Written) -> Vec<Dead<'c>> {
        let (mut indexed, mut conflicts) = (0, 0);
        let mut rejected = Vec::new();
        for (mut item, outcome) in settled {
            match outcome {
                Settled::Done => {
                    indexed += 1;
                    written.trace(item.span, "indexed");
                    written.created.extend(item.created_at);
                }
                Settled::Conflict => {
                    conflicts += 1;
                    written.trace(item.span, "indexed before");
                }
                Settled::Rejected(error) => {
                    item.span.fail(error.clone());
                    rejected.push(Dead {
                        record: item.record,
                        reason: Reason::Rejected,
                        error,
                    });
                }
            }
        }
        self.metrics.indexed(indexed, conflicts);
        rejected
    }

    /// Returns when the dead-letter topics have them all.
    async fn bury(&self, dead: Vec<Dead<'_>>) {
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
