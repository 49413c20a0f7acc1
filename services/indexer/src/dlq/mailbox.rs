//! Reading dead letters, and noting which were replayed. Everything here blocks until Kafka has answered.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use backon::{BlockingRetryable as _, ConstantBuilder};
use commerce_core::kafka::{KafkaConfig, Quiet};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::OwnedMessage,
};

use super::marks::Marks;
use crate::offsets::Partition;

const TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);
const ATTEMPTS: usize = 50;
/// When so many bytes are read, the rest has to wait.
const ENOUGH: usize = 16 * 1024 * 1024;

/// Where a record is: `topic/partition/offset`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(super) partition: Partition,
    pub(super) offset: i64,
}

/// A partition of a dead-letter topic.
#[derive(Debug, Clone)]
pub(super) struct Stack {
    pub(super) partition: Partition,
    /// The first offset that Kafka has…
    pub(super) first: i64,
    /// … and the one after the last.
    pub(super) end: i64,
    pub(super) marks: Marks,
}

pub(super) struct Mailbox {
    consumer: BaseConsumer<Quiet>,
}

impl Mailbox {
    /// `group` remembers what was replayed.
    pub(super) fn open(kafka: &KafkaConfig, group: &str) -> KafkaResult<Self> {
        let mut client = kafka.client("commerce-indexer-dlq");
        client
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("queued.max.messages.kbytes", "16384")
            .set("fetch.max.bytes", "8388608");
        Ok(Self {
            consumer: client.create_with_context(Quiet)?,
        })
    }

    /// What there is in these partitions.
    pub(super) fn stacks(&self, partitions: &[Partition]) -> anyhow::Result<Vec<Stack>> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&partition.topic, partition.number);
        }
        let committed = coordinated(|| self.consumer.committed_offsets(list.clone(), TIMEOUT))
            .context("reading from Kafka what was replayed")?;
        let mut stacks = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let (first, end) = self
                .consumer
                .fetch_watermarks(&partition.topic, partition.number, TIMEOUT)
                .with_context(|| format!("reading the offsets of {partition}"))?;
            let known = committed.find_partition(&partition.topic, partition.number);
            let marks = known.map_or_else(Marks::default, |known| {
                let offset = match known.offset() {
                    Offset::Offset(offset) => Some(offset),
                    _ => None,
                };
                Marks::new(first, offset, known.metadata())
            });
            stacks.push(Stack {
                partition: partition.clone(),
                first,
                end,
                marks,
            });
        }
        Ok(stacks)
    }

    /// Records from one offset until before another, `most` at most, and the offset to go on at.
    pub(super) fn read(
        &self,
        partition: &Partition,
        from: i64,
        until: i64,
        most: usize,
    ) -> anyhow::Result<(Vec<OwnedMessage>, i64)> {
        let (mut records, mut next, mut bytes) = (Vec::new(), from, 0);
        if from >= until {
            return Ok((records, until));
        }
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&partition.topic, partition.number, Offset::Offset(from))?;
        self.consumer.assign(&list)?;
        let mut patience = Instant::now() + TIMEOUT;
        while next < until && records.len() < most && bytes < ENOUGH {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(record)) if partition.is(record.topic(), record.partition()) => {
                    patience = Instant::now() + TIMEOUT;
                    next = record.offset() + 1;
                    bytes += record.payload_len();
                    if record.offset() < until {
                        records.push(record.detach());
                    }
                }
                // There is nothing up to the end any more.
                Some(Err(KafkaError::PartitionEOF(_))) => next = until,
                Some(Err(error)) if !is_about_the_connection(&error) => {
                    return Err(error).with_context(|| format!("reading {partition}"));
                }
                _ if Instant::now() > patience => {
                    bail!("reading {partition}: Kafka does not give the record at offset {next}");
                }
                _ => {}
            }
        }
        self.consumer.unassign()?;
        Ok((records, next))
    }

    /// The record at an address, if Kafka has it.
    pub(super) fn get(&self, address: &Address) -> anyhow::Result<Option<OwnedMessage>> {
        let Address { partition, offset } = address;
        let (first, end) = self
            .consumer
            .fetch_watermarks(&partition.topic, partition.number, TIMEOUT)
            .with_context(|| format!("reading the offsets of {partition}"))?;
        // An address that a letter tells may be anything.
        if !(first..end).contains(offset) {
            return Ok(None);
        }
        let (records, _) = self.read(partition, *offset, offset + 1, 1)?;
        Ok(records.into_iter().find(|record| record.offset() == *offset))
    }

    /// Remembers what was replayed.
    pub(super) fn remember(&self, stack: &Stack) -> KafkaResult<()> {
        let mut list = TopicPartitionList::with_capacity(1);
        let mut entry = list.add_partition(&stack.partition.topic, stack.partition.number);
        entry.set_offset(Offset::Offset(stack.marks.next()))?;
        entry.set_metadata(stack.marks.metadata());
        coordinated(|| self.consumer.commit(&list, CommitMode::Sync))
    }
}

/// Asks again while a group's coordinator moves or has only just become one.
fn coordinated<T>(ask: impl FnMut() -> KafkaResult<T>) -> KafkaResult<T> {
    use RDKafkaErrorCode::{CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator};
    let passes = |error: &KafkaError| {
        matches!(
            error.rdkafka_error_code(),
            Some(CoordinatorLoadInProgress | CoordinatorNotAvailable | NotCoordinator)
        )
    };
    let every = ConstantBuilder::new().with_delay(PAUSE).with_max_times(ATTEMPTS);
    ask.retry(every).when(passes).call()
}

/// librdkafka reconnects by itself.
fn is_about_the_connection(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut, Resolve};
    matches!(
        error.rdkafka_error_code(),
        Some(AllBrokersDown | BrokerTransportFailure | OperationTimedOut | Resolve)
    )
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.rsplitn(3, '/');
        let (offset, number, topic) = (parts.next(), parts.next(), parts.next());
        let parsed = || {
            let (offset, number) = (offset?.parse().ok()?, number?.parse().ok()?);
            let topic = topic.filter(|topic| !topic.is_empty())?;
            (offset >= 0 && number >= 0).then(|| Self {
                partition: Partition::new(topic, number),
                offset,
            })
        };
        parsed().ok_or_else(|| "it takes topic/partition/offset, such as order.created.dlq/0/17".to_owned())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}
