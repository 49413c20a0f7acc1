//! Membership of the consumer group.
//!
//! Rebalances do not happen inside librdkafka's callback, which would have to block until everything on its way is
//! settled: the callback only passes them on, and the pipeline carries them out when it is ready. librdkafka waits for
//! that, and the partitions that stay go on meanwhile.

use std::sync::Arc;

use commerce_core::{
    event::EventType,
    kafka::{ClientHealth, KafkaConfig},
};
use rdkafka::{
    ClientContext, Offset, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, StreamConsumer},
    error::{KafkaError, KafkaResult},
    types::RDKafkaRespErr,
};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::offsets::Partition;

pub(crate) type GroupConsumer = StreamConsumer<GroupContext>;

/// What the group asks of this member.
#[derive(Debug)]
pub(crate) enum Change {
    Assign(Vec<Partition>),
    Revoke(Vec<Partition>),
}

#[derive(Debug)]
pub(crate) struct GroupContext {
    changes: mpsc::UnboundedSender<Change>,
    health: Arc<ClientHealth>,
}

/// A member of the consumer group. It leaves when it is dropped, which blocks for a moment.
pub(crate) struct Group {
    pub(crate) consumer: Arc<GroupConsumer>,
    pub(crate) changes: mpsc::UnboundedReceiver<Change>,
    /// Asked for by [`Change::Revoke`] and not carried out yet.
    revoking: Vec<Partition>,
    pub(crate) health: Arc<ClientHealth>,
}

impl Group {
    /// Joins the group.
    pub(crate) fn join(kafka: &KafkaConfig, group_id: &str) -> KafkaResult<Self> {
        let (sender, changes) = mpsc::unbounded_channel();
        let health = Arc::<ClientHealth>::default();
        let mut client = kafka.watched_client("commerce-indexer");
        client
            .set("group.id", group_id)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            // A crashed member's partitions are with another one after this time.
            .set("session.timeout.ms", "10000")
            // Members learn of a rebalance with a heartbeat, and a partition that moves belongs to nobody until they have.
            .set("heartbeat.interval.ms", "1000")
            // New partitions, and topics that were deleted and made again, are noticed after this time.
            .set("topic.metadata.refresh.interval.ms", "10000")
            // Memory is bounded by these, whatever the lag.
            .set("queued.max.messages.kbytes", "8192")
            .set("fetch.max.bytes", "2097152")
            // All partitions are read at the same pace: what was published together is indexed together, and Elasticsearch
            // finds order ids that follow one another cheaper to look up.
            .set("max.partition.fetch.bytes", "262144")
            // With the queue full, librdkafka would else pause fetching for a whole second.
            .set("fetch.queue.backoff.ms", "10");
        let consumer: GroupConsumer = client.create_with_context(GroupContext {
            changes: sender,
            health: Arc::clone(&health),
        })?;
        let topics = EventType::ALL.map(|event| kafka.topic(event.topic()));
        consumer.subscribe(&topics.each_ref().map(String::as_str))?;
        Ok(Self {
            consumer: Arc::new(consumer),
            changes,
            revoking: Vec::new(),
            health,
        })
    }

    /// Leaves, which blocks until the group knows.
    pub(crate) async fn leave(self) {
        if tokio::task::spawn_blocking(move || drop(self)).await.is_err() {
            tracing::warn!("leaving the consumer group failed; it notices after the session timeout");
        }
    }

    pub(crate) fn assign(&self, partitions: &[Partition]) -> KafkaResult<()> {
        self.consumer.incremental_assign(&list(partitions, None)?)
    }

    /// Fetches no more of partitions that are about to be given back.
    pub(crate) fn start_revoking(&mut self, partitions: Vec<Partition>) -> KafkaResult<()> {
        self.revoking = partitions;
        self.consumer.pause(&list(&self.revoking, None)?)
    }

    pub(crate) fn revoking(&self) -> &[Partition] {
        &self.revoking
    }

    pub(crate) fn finish_revoking(&mut self) -> KafkaResult<()> {
        let revoked = list(&std::mem::take(&mut self.revoking), None)?;
        // librdkafka remembers that a partition was paused beyond its revocation, and would fetch nothing of it when this
        // member gets it back. What is fetched in between belongs to nobody here, and is dropped.
        self.consumer.resume(&revoked)?;
        self.consumer.incremental_unassign(&revoked)
    }

    pub(crate) fn pause(&self, partitions: &[Partition]) -> KafkaResult<()> {
        self.consumer.pause(&list(partitions, None)?)
    }

    pub(crate) fn resume(&self, partitions: &[Partition]) -> KafkaResult<()> {
        self.consumer.resume(&list(partitions, None)?)
    }

    /// Commits on a thread of its own: rust-rdkafka tells nobody how a commit of the asynchronous mode went
    /// (<https://github.com/fede1024/rust-rdkafka/issues/856>). With the coordinator away, librdkafka gives up after the session
    /// timeout.
    pub(crate) fn commit(&self, offsets: &[(Partition, i64)]) -> KafkaResult<Commit> {
        let (consumer, offsets) = (Arc::clone(&self.consumer), offset_list(offsets)?);
        Ok(Commit(tokio::task::spawn_blocking(move || {
            consumer.commit(&offsets, CommitMode::Sync)
        })))
    }
}

/// A commit that Kafka has not answered yet.
#[derive(Debug)]
pub(crate) struct Commit(JoinHandle<KafkaResult<()>>);

impl Commit {
    /// Waits for the answer. May be called anew where it was cancelled.
    pub(crate) async fn answer(&mut self) -> KafkaResult<()> {
        (&mut self.0).await.unwrap_or(Err(KafkaError::Canceled))
    }
}

impl Drop for Group {
    /// librdkafka closes only when every rebalance that it has asked for is carried out.
    fn drop(&mut self) {
        self.changes.close();
        let mut results = Vec::new();
        if !self.revoking.is_empty() {
            results.push(self.finish_revoking());
        }
        while let Ok(change) = self.changes.try_recv() {
            match change {
                Change::Assign(partitions) => results.push(self.assign(&partitions)),
                Change::Revoke(partitions) => {
                    self.revoking = partitions;
                    results.push(self.finish_revoking());
                }
            }
        }
        for error in results.into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "giving partitions back while leaving the group");
        }
    }
}

impl ClientContext for GroupContext {
    /// librdkafka's own words go to the debug log; the readiness check says what matters of them.
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }

    fn stats(&self, statistics: Statistics) {
        self.health.observe(&statistics);
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = partitions(list);
        let assign = matches!(kind, RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS);
        let change = if assign {
            Change::Assign(partitions)
        } else {
            Change::Revoke(partitions)
        };
        if self.changes.send(change).is_err() {
            // This member is leaving: nobody else carries it out.
            let result = if assign {
                consumer.incremental_assign(list)
            } else {
                consumer.incremental_unassign(list)
            };
            if let Err(error) = result {
                tracing::debug!(%error, "giving partitions back while leaving the group");
            }
        }
    }
}

pub(crate) fn partitions(list: &TopicPartitionList) -> Vec<Partition> {
    list.elements()
        .iter()
        .map(|element| Partition::new(element.topic(), element.partition()))
        .collect()
}

fn offset_list(offsets: &[(Partition, i64)]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for (partition, offset) in offsets {
        list.add_partition_offset(&partition.topic, partition.number, Offset::Offset(*offset))?;
    }
    Ok(list)
}

/// The partitions, all with the same offset if one is given.
pub(crate) fn list(partitions: &[Partition], offset: Option<Offset>) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition_offset(
            &partition.topic,
            partition.number,
            offset.unwrap_or(Offset::Invalid),
        )?;
    }
    Ok(list)
}
