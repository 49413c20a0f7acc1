//! Records on their way into one bulk request.

use std::ops::Range;

use chrono::{DateTime, Utc};
use commerce_core::trace::Span;
use hashbrown::HashSet;
use rdkafka::{Message as _, message::BorrowedMessage};
use tokio::time::Instant;

use crate::{BulkLimits, delivery::Lines, document, offsets::Partition};

/// A number that no other batch of this process has.
pub(crate) type BatchId = u64;

/// The request's body and, for the dead-letter topic, the records as librdkafka has them in memory: copying each would cost
/// more than reading it.
#[derive(Debug)]
pub(crate) struct Batch<'c> {
    pub(crate) id: BatchId,
    pub(crate) body: Vec<u8>,
    pub(crate) items: Vec<Item<'c>>,
    pub(crate) malformed: Vec<Malformed<'c>>,
    /// Whose orders the items are.
    pub(crate) users: HashSet<Box<str>>,
    /// For each partition the offset after its last record in this batch.
    pub(crate) next_offsets: Vec<(Partition, i64)>,
    /// When the newest of its events was published.
    pub(crate) newest: Option<DateTime<Utc>>,
    /// It was sent because it was full: more may wait behind it.
    pub(crate) full: bool,
    /// When the first record came.
    since: Option<Instant>,
    malformed_bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Item<'c> {
    pub(crate) record: BorrowedMessage<'c>,
    pub(crate) lines: Range<usize>,
    pub(crate) created_at: Option<DateTime<Utc>>,
    /// Lasts until the document can be found.
    pub(crate) span: Span,
}

impl Item<'_> {
    /// Orders numbers by their size.
    fn key(&self) -> Option<(usize, &[u8])> {
        let key = self.record.key()?;
        Some((key.len(), key))
    }
}

impl Lines for Item<'_> {
    fn lines(&self) -> Range<usize> {
        self.lines.clone()
    }
}

/// A record that is no order event.
#[derive(Debug)]
pub(crate) struct Malformed<'c> {
    pub(crate) record: BorrowedMessage<'c>,
    pub(crate) error: String,
}

impl<'c> Batch<'c> {
    pub(crate) fn new(id: BatchId, body: Vec<u8>) -> Self {
        Self {
            id,
            body,
            items: Vec::new(),
            malformed: Vec::new(),
            users: HashSet::new(),
            next_offsets: Vec::new(),
            newest: None,
            full: false,
            since: None,
            malformed_bytes: 0,
        }
    }

    /// `span` is what the record's way into the index is traced by.
    pub(crate) fn add(&mut self, record: BorrowedMessage<'c>, mut span: Span) {
        self.since.get_or_insert_with(Instant::now);
        self.advance(record.topic(), record.partition(), record.offset() + 1);
        self.newest = self.newest.max(document::published_at(&record));
        match document::encode(&record, &mut self.body) {
            Ok(encoded) => {
                let document::Encoded {
                    lines,
                    user_id,
                    created_at,
                } = encoded;
                self.users.get_or_insert_with(&*user_id, |user| user.into());
                self.items.push(Item {
                    record,
                    lines,
                    created_at,
                    span,
                });
            }
            Err(error) => {
                span.fail(error.to_string());
                self.malformed_bytes += record.payload().map_or(0, <[u8]>::len);
                self.malformed.push(Malformed {
                    record,
                    error: error.to_string(),
                });
            }
        }
    }

    /// Puts the items in the order of their keys, which are the orders' numbers. Elasticsearch needs less time for documents that
    /// follow one another, and the records came partition by partition. `body` is for the lines; gives the one of before back.
    pub(crate) fn sort(&mut self, mut body: Vec<u8>) -> Vec<u8> {
        self.items.sort_by(|one, other| one.key().cmp(&other.key()));
        for item in &mut self.items {
            let start = body.len();
            body.extend_from_slice(&self.body[item.lines.clone()]);
            item.lines = start..body.len();
        }
        std::mem::replace(&mut self.body, body)
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len() + self.malformed.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn is_full(&self, limits: &BulkLimits) -> bool {
        self.len() >= limits.max_documents || self.body.len() + self.malformed_bytes >= limits.max_bytes
    }

    /// When it is to be cut, however little is in it.
    pub(crate) fn due(&self, limits: &BulkLimits) -> Option<Instant> {
        self.since.map(|since| since + limits.max_delay)
    }

    pub(crate) fn has(&self, topic: &str, number: i32) -> bool {
        self.next_offsets
            .iter()
            .any(|(partition, _)| partition.is(topic, number))
    }

    pub(crate) fn has_any_of(&self, partitions: &[Partition]) -> bool {
        self.next_offsets
            .iter()
            .any(|(partition, _)| partitions.contains(partition))
    }

    /// Takes no more part in these partitions' progress: they belong to somebody else.
    pub(crate) fn disown(&mut self, partitions: &[Partition]) {
        self.next_offsets
            .retain(|(partition, _)| !partitions.contains(partition));
    }

    fn advance(&mut self, topic: &str, number: i32, next: i64) {
        match self
            .next_offsets
            .iter_mut()
            .find(|(partition, _)| partition.is(topic, number))
        {
            Some((_, offset)) => *offset = next,
            None => self.next_offsets.push((Partition::new(topic, number), next)),
        }
    }
}
