//! The topic of one party, and what it holds in the end.

use std::{collections::BTreeMap, collections::HashSet, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use commerce_core::{
    event::{EventType, OrderEvent, header},
    kafka::KafkaConfig,
    topics::{self, TopicSpec},
};
use rdkafka::{
    Message as _, Offset, Timestamp, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::{BorrowedMessage, Headers as _},
};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};
use uuid::Uuid;

use crate::program::Program;

const PARTITIONS: i32 = 6;
/// Nothing new for so long is a failure.
const PATIENCE: Duration = Duration::from_mins(1);
/// The header with the event's id: the relay's, and the one that Debezium makes.
const IDS: [&str; 2] = [header::ID, "id"];

/// Where `order.created` events go.
#[derive(Clone)]
pub struct Topic {
    pub kafka: KafkaConfig,
    name: String,
    consumer: Arc<BaseConsumer>,
}

/// The offset at which each partition ends.
pub type Ends = Vec<i64>;

/// A message, as far as it matters here.
pub struct Published {
    id: Uuid,
    /// When the row was inserted: microseconds since 1970, from the payload.
    inserted: i64,
    /// The end of the millisecond in which the broker appended it: microseconds since 1970.
    pub appended: i64,
}

impl Topic {
    /// Creates the topics of a pipeline. The broker stamps messages when it appends them.
    pub async fn create(bootstrap: String, prefix: &str) -> Result<Self> {
        let kafka = KafkaConfig::plaintext(bootstrap, prefix);
        let spec = TopicSpec {
            partitions: PARTITIONS,
            replication_factor: 1,
            config: BTreeMap::from([("message.timestamp.type".to_owned(), "LogAppendTime".to_owned())]),
        };
        topics::ensure(&kafka, &spec).await?;
        let mut client = kafka.client("bench");
        client.set("group.id", "bench").set("enable.auto.commit", "false");
        Ok(Self {
            name: kafka.topic(EventType::OrderCreated.topic()),
            consumer: Arc::new(client.create()?),
            kafka,
        })
    }

    pub async fn ends(&self) -> Result<Ends> {
        let topic = self.clone();
        spawn_blocking(move || topic.ask_for_ends()).await?
    }

    fn ask_for_ends(&self) -> Result<Ends> {
        (0..PARTITIONS)
            .map(|partition| Ok(self.consumer.fetch_watermarks(&self.name, partition, PATIENCE)?.1))
            .collect()
    }

    /// Waits until `program` has published so many messages.
    pub async fn grown(&self, from: &Ends, messages: i64, program: &mut Program) -> Result<()> {
        let (mut seen, mut until) = (0, Instant::now() + PATIENCE);
        loop {
            let published = self.ends().await?.iter().sum::<i64>() - from.iter().sum::<i64>();
            if published >= messages {
                return Ok(());
            }
            program.runs()?;
            if published > seen {
                (seen, until) = (published, Instant::now() + PATIENCE);
            }
            ensure!(
                Instant::now() < until,
                "nothing new in {} for {PATIENCE:?}; it has {published} of {messages} messages",
                self.name
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// What was published since; an error unless it is each of the events with these ids, once.
    pub async fn published(&self, from: Ends, mut events: HashSet<Uuid>) -> Result<Vec<Published>> {
        let topic = self.clone();
        let published = spawn_blocking(move || topic.read(&from)).await??;
        for message in &published {
            ensure!(
                events.remove(&message.id),
                "{} has {} twice, or it was never written",
                self.name,
                message.id
            );
        }
        ensure!(
            events.is_empty(),
            "{} lacks {} events of {}",
            self.name,
            events.len(),
            events.len() + published.len()
        );
        Ok(published)
    }

    fn read(&self, from: &Ends) -> Result<Vec<Published>> {
        let mut ends = BTreeMap::new();
        let mut assignment = TopicPartitionList::new();
        for ((partition, end), begin) in (0..).zip(self.ask_for_ends()?).zip(from) {
            if end > *begin {
                ends.insert(partition, end);
                assignment.add_partition_offset(&self.name, partition, Offset::Offset(*begin))?;
            }
        }
        self.consumer.assign(&assignment)?;
        let mut published = Vec::new();
        while !ends.is_empty() {
            let message = self.consumer.poll(PATIENCE).context("the topic does not end")??;
            if ends
                .get(&message.partition())
                .is_some_and(|end| message.offset() + 1 >= *end)
            {
                ends.remove(&message.partition());
            }
            published.push(
                Published::of(&message).with_context(|| format!("reading a message of {}", self.name))?,
            );
        }
        self.consumer.unassign()?;
        Ok(published)
    }
}

impl Published {
    fn of(message: &BorrowedMessage<'_>) -> Result<Self> {
        let headers = message.headers().context("it has no headers")?;
        let id = headers.iter().find(|header| IDS.contains(&header.key));
        let id = id.and_then(|header| header.value).context("it has no id")?;
        let Timestamp::LogAppendTime(milliseconds) = message.timestamp() else {
            bail!("its timestamp is not the broker's");
        };
        let event: OrderEvent = serde_json::from_slice(message.payload().unwrap_or_default())?;
        Ok(Self {
            id: Uuid::try_parse_ascii(id)?,
            inserted: event.created_at.timestamp_micros(),
            appended: (milliseconds + 1) * 1_000,
        })
    }
}

/// The median and the 99th percentile of the time from the insertion of the row to the append of the message.
pub fn latencies(published: &[Published]) -> (Duration, Duration) {
    let mut latencies: Vec<_> = published
        .iter()
        .map(|message| Duration::from_micros((message.appended - message.inserted).max(0).unsigned_abs()))
        .collect();
    latencies.sort_unstable();
    let percentile = |percent: usize| latencies.get(latencies.len() * percent / 100).copied();
    (
        percentile(50).unwrap_or_default(),
        percentile(99).unwrap_or_default(),
    )
}
