//! The ends of the topics: the last messages of each partition.
//!
//! More than the very last, since the events of a window are sent in the order of their ids and not in that of the commits: the
//! commit that a server forgot may have an event before one that it kept. Such neighbours are a few transactions apart, and
//! a transaction of the API has 256 orders at most.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use commerce_core::{
    event::{EventType, header},
    kafka::{KafkaConfig, Watched},
};
use rdkafka::{
    Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::Headers as _,
};
use tokio::{sync::oneshot, task::spawn_blocking};
use uuid::Uuid;

use crate::{error::Error, publish::SOURCE};

/// So many messages of a partition are read, and no more than so many of a topic (but always a few of each partition).
const OF_PARTITION: usize = 256;
const OF_TOPIC: usize = 2_048;
const FEW: usize = 8;
/// How long Kafka may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
const METADATA: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);

/// A message that a relay has published, and the row that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub xid: u64,
    pub outbox_id: i64,
    pub event_id: Uuid,
    pub aggregate_id: String,
    pub created_at: DateTime<Utc>,
}

impl Message {
    /// `None` for what somebody else has written, or a relay that did not name rows yet.
    fn of(message: &impl rdkafka::Message) -> Option<Self> {
        let headers = message.headers()?;
        let text = |name| {
            let header = headers.iter().find(|header| header.key == name)?;
            std::str::from_utf8(header.value?).ok()
        };
        if text(header::SOURCE)? != SOURCE {
            return None;
        }
        let (xid, outbox_id) = text(header::OUTBOX_POSITION)?.split_once(':')?;
        Some(Self {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            xid: xid.parse().ok()?,
            outbox_id: outbox_id.parse().ok()?,
            event_id: text(header::ID)?.parse().ok()?,
            aggregate_id: text(header::SUBJECT)?.to_owned(),
            created_at: text(header::TIME)?.parse().ok()?,
        })
    }
}

/// Reads the ends of all topics, in a thread. A topic that does not exist has none.
pub fn read(kafka: KafkaConfig) -> oneshot::Receiver<Result<Vec<Message>, Error>> {
    let (mut sender, receiver) = oneshot::channel();
    spawn_blocking(move || {
        let topics = EventType::ALL.map(|event| kafka.topic(event.topic()));
        match consumer(&kafka) {
            Err(error) => {
                let _ = sender.send(Err(Error::Kafka(error.to_string())));
            }
            // The caller has it before the consumer is closed, which takes a moment.
            Ok(consumer) => {
                let read = read_topics(&consumer, &topics, &mut sender);
                let _ = sender.send(read);
            }
        }
    });
    receiver
}

fn consumer(kafka: &KafkaConfig) -> KafkaResult<BaseConsumer<Watched>> {
    kafka
        .client("commerce-relay-tail")
        // librdkafka wants a name, and neither joins the group nor commits.
        .set("group.id", "commerce-relay")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Where retention has taken some of the last messages.
        .set("auto.offset.reset", "earliest")
        .set("enable.partition.eof", "true")
        // The end is noticed by a fetch that brings nothing.
        .set("fetch.wait.max.ms", "10")
        .set("fetch.max.bytes", "4194304")
        .set("queued.max.messages.kbytes", "8192")
        .set_log_level(RDKafkaLogLevel::Warning)
        .create_with_context(Watched::default())
}

fn read_topics<T>(
    consumer: &BaseConsumer<Watched>,
    topics: &[String],
    asked: &mut oneshot::Sender<T>,
) -> Result<Vec<Message>, Error> {
    let until = Instant::now() + PATIENCE;
    let mut messages = Vec::new();
    for topic in topics {
        let problem =
            |problem: String| Error::Kafka(format!("reading the end of the topic {topic}: {problem}"));
        let mut unread = assign(consumer, topic).map_err(|error| problem(explain(consumer, &error)))?;
        let mut complaint = None;
        while !unread.is_empty() {
            if Instant::now() > until || asked.is_closed() {
                return Err(problem(complaint.unwrap_or_else(|| "no answer".to_owned())));
            }
            match consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => messages.extend(Message::of(&message)),
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    unread.remove(&partition);
                }
                Some(Err(error)) if is_denied(&error) => return Err(problem(explain(consumer, &error))),
                // Said of this group, which is none, or passing.
                Some(Err(error)) => complaint = Some(error.to_string()),
            }
        }
    }
    Ok(messages)
}

/// Starts to read a topic shortly before its end, and returns its partitions.
fn assign(consumer: &BaseConsumer<Watched>, topic: &str) -> KafkaResult<HashSet<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), METADATA)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Ok(HashSet::new());
    };
    match found.error().map(RDKafkaErrorCode::from) {
        None => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            return Ok(HashSet::new());
        }
        Some(code) => return Err(KafkaError::MetadataFetch(code)),
    }
    let partitions: HashSet<i32> = found
        .partitions()
        .iter()
        .map(rdkafka::metadata::MetadataPartition::id)
        .collect();
    let each = (OF_TOPIC / partitions.len().max(1)).clamp(FEW, OF_PARTITION);
    let each = i64::try_from(each).unwrap_or(1);
    let mut assignment = TopicPartitionList::new();
    for partition in &partitions {
        assignment.add_partition_offset(topic, *partition, Offset::OffsetTail(each))?;
    }
    consumer.assign(&assignment)?;
    Ok(partitions)
}

fn is_denied(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed)
}

fn explain(consumer: &BaseConsumer<Watched>, error: &KafkaError) -> String {
    if is_denied(error) {
        return format!("{error}; the relay has to read what it has published, before it goes on");
    }
    consumer.client().context().0.explain(error)
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use rdkafka::{
        Timestamp,
        message::{Header, OwnedHeaders, OwnedMessage},
    };

    use super::*;

    const HEADERS: [(&str, &str); 5] = [
        (header::ID, "0194a7c3-0a54-7c63-9f1f-5f6f2f1a2b3c"),
        (header::SOURCE, SOURCE),
        (header::SUBJECT, "42"),
        (header::TIME, "2026-11-22T19:40:12.123456Z"),
        (header::OUTBOX_POSITION, "4294967400:17"),
    ];

    fn message(headers: &[(&str, &str)]) -> OwnedMessage {
        let headers = headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(*value),
            })
        });
        let topic = "order.created".to_owned();
        OwnedMessage::new(None, None, topic, Timestamp::NotAvailable, 2, 4711, Some(headers))
    }

    #[test]
    fn a_message_names_its_row() {
        let found = Message::of(&message(&HEADERS)).unwrap();
        let expected = Message {
            topic: "order.created".to_owned(),
            partition: 2,
            offset: 4711,
            xid: 4_294_967_400,
            outbox_id: 17,
            event_id: HEADERS[0].1.parse().unwrap(),
            aggregate_id: "42".to_owned(),
            created_at: "2026-11-22T19:40:12.123456Z".parse().unwrap(),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn what_others_have_written_and_what_names_no_row_says_nothing() {
        for (changed, value) in [
            (header::SOURCE, "/somebody/else"),
            (header::OUTBOX_POSITION, "17"),
            (header::OUTBOX_POSITION, "x:17"),
            (header::ID, "17"),
            (header::TIME, "yesterday"),
        ] {
            let mut headers = HEADERS;
            for header in headers.iter_mut().filter(|header| header.0 == changed) {
                header.1 = value;
            }
            assert_eq!(Message::of(&message(&headers)), None, "{changed}: {value}");
        }
        // As relays wrote them before.
        assert_eq!(Message::of(&message(&HEADERS[..4])), None);
    }
}
