//! The dead-letter topics: where events go that can never be indexed, with the reason and where they came from.

use std::{sync::Arc, time::Duration};

use commerce_core::{
    admin::Gate,
    kafka::{ClientHealth, KafkaConfig, Watched},
    topics,
};
use rdkafka::{
    ClientConfig, Message,
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, Headers as _, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use tokio::sync::OnceCell;

use crate::backoff::Backoff;

/// How long Kafka may take before the record is sent anew.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The headers that make a record a letter. Those that the record had itself stay.
pub(crate) mod header {
    /// All of them begin with this, and no other header does.
    pub(crate) const PREFIX: &str = "dlq-";
    pub(crate) const REASON: &str = "dlq-reason";
    pub(crate) const ERROR: &str = "dlq-error";
    pub(crate) const TOPIC: &str = "dlq-topic";
    pub(crate) const PARTITION: &str = "dlq-partition";
    pub(crate) const OFFSET: &str = "dlq-offset";
    /// There only where the letter is without the record's value, which stays where it was.
    pub(crate) const PAYLOAD: &str = "dlq-payload";
}

/// Why an event is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is no order event.
    Malformed,
    /// Elasticsearch does not take its document.
    Rejected,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Rejected => "rejected",
        }
    }
}

/// Writes dead letters. Clones share the producer.
#[derive(Clone)]
pub(crate) struct DeadLetters {
    client: ClientConfig,
    /// Made for the first letter. Most indexers never write one, and a producer is at work even when it has nothing to send.
    producer: Arc<OnceCell<FutureProducer<Watched>>>,
    health: Arc<ClientHealth>,
    gate: Gate,
}

impl DeadLetters {
    pub(crate) fn new(config: &KafkaConfig, gate: Gate) -> Self {
        let mut client = config.watched_client("commerce-indexer-dead-letters");
        reliably(&mut client);
        Self {
            client,
            producer: Arc::default(),
            health: Arc::default(),
            gate,
        }
    }

    /// Returns when the producer can never write again.
    pub(crate) async fn lost(&self) {
        self.health.lost().await;
    }

    /// Returns when all replicas have the letter, however long that takes.
    pub(crate) async fn send(&self, record: &impl Message, reason: Reason, error: &str) {
        let topic = topics::dead_letters(record.topic());
        let mut payload = record.payload();
        let mut backoff = Backoff::new();
        loop {
            let mut letter = FutureRecord::<[u8], [u8]>::to(&topic);
            letter.key = record.key();
            letter.payload = payload;
            let letter = letter.headers(headers(record, reason, error, payload.is_none()));
            let sent = match self.producer().await {
                Ok(producer) => producer
                    .send(letter, TIMEOUT)
                    .await
                    .map_err(|(problem, _)| problem),
                Err(problem) => Err(problem),
            };
            let Err(problem) = sent else { return };
            if is_too_large(&problem) && payload.is_some() {
                // The event stays where it was, and the letter says where that is.
                payload = None;
                continue;
            }
            self.gate.fail(format!("writing to the topic {topic}: {problem}"));
            backoff.wait().await;
        }
    }

    async fn producer(&self) -> Result<&FutureProducer<Watched>, KafkaError> {
        let context = Watched(Arc::clone(&self.health));
        let make = async || self.client.create_with_context(context);
        self.producer.get_or_try_init(make).await
    }
}

/// Settings of a producer that knows after a bounded time whether all replicas have a record.
pub(crate) fn reliably(client: &mut ClientConfig) {
    client
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "5");
    client.set("message.timeout.ms", TIMEOUT.as_millis().to_string());
    // Compression keeps a letter, which is larger than the event was, below the broker's limit. The client's own
    // limit, which is about the uncompressed size, must not be the narrower one.
    client
        .set("compression.type", "lz4")
        .set("message.max.bytes", "67108864");
}

fn is_too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}

/// The record's own headers (but for those of an earlier death), the reason and the origin.
fn headers(record: &impl Message, reason: Reason, error: &str, without_payload: bool) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new();
    if let Some(original) = record.headers() {
        for header in original
            .iter()
            .filter(|header| !header.key.starts_with(header::PREFIX))
        {
            headers = headers.insert(header);
        }
    }
    let (partition, offset) = (record.partition().to_string(), record.offset().to_string());
    let ours = [
        (header::REASON, reason.as_str()),
        (header::ERROR, error),
        (header::TOPIC, record.topic()),
        (header::PARTITION, &partition),
        (header::OFFSET, &offset),
    ];
    for (key, value) in ours {
        headers = headers.insert(Header {
            key,
            value: Some(value),
        });
    }
    if without_payload && record.payload().is_some() {
        headers = headers.insert(Header {
            key: header::PAYLOAD,
            value: Some("left out: too large"),
        });
    }
    headers
}
