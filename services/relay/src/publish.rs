//! Publishing to Kafka.
//!
//! The producer is idempotent and never gives an event up by itself: while Kafka is away, events wait. What it refuses
//! is either that event's own fault, and then it is parked, or everybody's, and then the relay starts again from its
//! checkpoint with a new producer.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::SecondsFormat;
use commerce_core::{
    event::{EventType, header},
    kafka::{ClientHealth, KafkaConfig},
    trace::{Role, Span, Tracer},
};
use rdkafka::{
    ClientConfig, ClientContext, Message as _, Statistics,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer},
};
use tokio::sync::Notify;

use crate::{error::Error, outbox::Event};

/// `ce_source` of every event.
pub const SOURCE: &str = "/commerce-pipeline/orders";

/// Why an event was not published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The event's own fault; others would be published.
    Event(String),
    /// Everybody's.
    Kafka(String),
}

/// What became of the event that was sent with this ticket.
#[derive(Debug)]
pub struct Delivery {
    pub ticket: usize,
    pub result: Result<(), Refusal>,
}

/// Sends events; [`Producer::deliveries`] tells what became of them.
pub struct Producer {
    /// Gone only while this is dropped.
    inner: Option<ThreadedProducer<Outcomes>>,
    topic_prefix: String,
    tracer: Tracer,
    /// Of the events under way that are traced, by ticket.
    spans: HashMap<usize, Span>,
}

/// Filled by the producer's own thread.
#[derive(Default)]
struct Outcomes {
    /// Of the pipeline's own event types. Without them nothing can be published.
    topics: Vec<String>,
    deliveries: Mutex<Vec<Delivery>>,
    problem: Mutex<Option<String>>,
    news: Notify,
    health: ClientHealth,
}

/// How events are sent: each once and in order, in batches that gather by themselves while others are under way, until
/// all replicas have them.
pub fn settings(client: &mut ClientConfig) -> &mut ClientConfig {
    client
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        .set("linger.ms", "0")
        .set("batch.num.messages", "10000")
        .set("batch.size", "524288")
        .set("message.timeout.ms", "0")
        // What is too large, the topic decides, by the size after compression.
        .set("message.max.bytes", "67108864")
}

impl Producer {
    /// Connects in the background.
    pub fn new(kafka: &KafkaConfig, batch_size: usize, tracer: Tracer) -> Result<Self, Error> {
        let mut client = kafka.watched_client("commerce-relay");
        settings(&mut client)
            // The relay bounds what is under way; these are never reached.
            .set(
                "queue.buffering.max.messages",
                (2 * batch_size + 1_000).to_string(),
            )
            .set("queue.buffering.max.kbytes", "1048576")
            // A topic that is missing is known to be after this.
            .set("topic.metadata.propagation.max.ms", "5000")
            .set_log_level(RDKafkaLogLevel::Warning);
        let inner = client
            .create_with_context::<_, ThreadedProducer<Outcomes>>(Outcomes {
                topics: EventType::ALL.map(|event| kafka.topic(event.topic())).to_vec(),
                ..Outcomes::default()
            })
            .map_err(|error| Error::Kafka(error.to_string()))?;
        Ok(Self {
            inner: Some(inner),
            topic_prefix: kafka.topic_prefix.clone(),
            tracer,
            spans: HashMap::new(),
        })
    }

    /// Hands an event over. `ticket` comes back in its [`Delivery`], unless this refuses it.
    pub fn send(&mut self, ticket: usize, event: &Event<'_>) -> Result<(), Refusal> {
        let topic = format!("{}{}", self.topic_prefix, event.kind);
        let (id, time) = (
            event.id.to_string(),
            event.created_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        );
        let position = format!("{}:{}", event.xid, event.outbox_id);
        let headers = OwnedHeaders::new_with_capacity(10)
            .insert(text(header::SPEC_VERSION, "1.0"))
            .insert(text(header::ID, &id))
            .insert(text(header::SOURCE, SOURCE))
            .insert(text(header::TYPE, event.kind))
            .insert(text(header::SUBJECT, event.aggregate_id))
            .insert(text(header::TIME, &time))
            .insert(text(header::CONTENT_TYPE, "application/json"))
            .insert(text(header::CORRELATION_ID, event.correlation_id))
            .insert(text(header::OUTBOX_POSITION, &position));
        let span = self.span(event, &topic);
        let own = span.traceparent();
        let headers = match own.as_deref().or(event.traceparent) {
            Some(traceparent) => headers.insert(text(header::TRACEPARENT, traceparent)),
            None => headers,
        };
        let record = BaseRecord::with_opaque_to(&topic, ticket)
            .key(event.aggregate_id)
            .payload(event.payload)
            .headers(headers);
        let Some(producer) = &self.inner else {
            return Err(Refusal::Kafka("the producer is closed".to_owned()));
        };
        producer
            .send(record)
            .map_err(|(error, _)| self.refusal(&error, &topic))?;
        if span.is_recording() {
            self.spans.insert(ticket, span);
        }
        Ok(())
    }

    /// It lasts until Kafka has acknowledged the event or refused it.
    fn span(&self, event: &Event<'_>, topic: &str) -> Span {
        let mut span = self
            .tracer
            .event(Role::Producer, event.traceparent, || format!("send {topic}"));
        if span.is_recording() {
            span.set("messaging.system", "kafka");
            span.set("messaging.operation.type", "send");
            span.set("messaging.destination.name", topic.to_owned());
            span.set("messaging.message.id", event.id.to_string());
            span.set("correlation.id", event.correlation_id.to_owned());
        }
        span
    }

    /// What happened since the last call.
    #[must_use]
    pub fn deliveries(&mut self) -> Vec<Delivery> {
        let deliveries = self
            .outcomes()
            .map(|outcomes| mem::take(&mut *lock(&outcomes.deliveries)))
            .unwrap_or_default();
        if !self.spans.is_empty() {
            self.end_spans(&deliveries);
        }
        deliveries
    }

    fn end_spans(&mut self, deliveries: &[Delivery]) {
        for Delivery { ticket, result } in deliveries {
            let span = self.spans.remove(ticket);
            if let (Some(mut span), Err(Refusal::Event(why) | Refusal::Kafka(why))) = (span, result) {
                span.fail(why.clone());
            }
        }
    }

    /// Waits until there are deliveries. Cancel safe.
    pub async fn delivered(&self) {
        match self.outcomes() {
            Some(outcomes) => outcomes.news.notified().await,
            None => std::future::pending().await,
        }
    }

    /// What Kafka's client complained about last.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.outcomes()
            .and_then(|outcomes| lock(&outcomes.problem).clone())
    }

    /// Whether this producer will never write to Kafka again, and only a new one can.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.outcomes().is_some_and(|outcomes| outcomes.health.is_lost())
    }

    /// Forgets what the client complained about.
    pub fn forget_problem(&self) {
        if let Some(outcomes) = self.outcomes() {
            *lock(&outcomes.problem) = None;
        }
    }

    fn outcomes(&self) -> Option<&Arc<Outcomes>> {
        self.inner.as_ref().map(|producer| producer.client().context())
    }

    fn refusal(&self, error: &KafkaError, topic: &str) -> Refusal {
        let Some(producer) = &self.inner else {
            return Refusal::Kafka(error.to_string());
        };
        match producer.client().fatal_error() {
            Some((code, reason)) => Refusal::Kafka(format!("{code}: {reason}")),
            None => producer.client().context().refusal(error, topic),
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // It joins a thread, and waits for the client to forget what is under way.
        let inner = self.inner.take();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(inner))),
            Err(_) => drop(inner),
        }
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer")
            .field("topic_prefix", &self.topic_prefix)
            .finish_non_exhaustive()
    }
}

impl ClientContext for Outcomes {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters of it reaches readiness and is logged there, once.
        tracing::debug!(facility, message, "librdkafka");
        self.health.listen(facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.health.complain(&error);
        tracing::debug!(%error, reason, "librdkafka");
        let code = error
            .rdkafka_error_code()
            .map_or_else(|| error.to_string(), |code| code.to_string());
        *lock(&self.problem) = Some(self.health.failure().unwrap_or(code));
    }

    fn stats(&self, statistics: Statistics) {
        self.health.observe(&statistics);
    }
}

impl ProducerContext<NoCustomPartitioner> for Outcomes {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: usize) {
        let result = result.as_ref().map(drop).map_err(|(error, message)| {
            tracing::debug!(%error, topic = message.topic(), "not delivered");
            self.refusal(error, message.topic())
        });
        lock(&self.deliveries).push(Delivery { ticket, result });
        self.news.notify_one();
    }
}

fn text<'a>(key: &'a str, value: &'a str) -> Header<'a, &'a str> {
    Header {
        key,
        value: Some(value),
    }
}

impl Outcomes {
    /// Whose fault it is that an event was not published. A topic of the pipeline's own that is missing, or closed to it,
    /// keeps all events of a type back, so no single one is to blame.
    fn refusal(&self, error: &KafkaError, topic: &str) -> Refusal {
        use RDKafkaErrorCode as Code;
        let Some(code) = error.rdkafka_error_code() else {
            return Refusal::Kafka(error.to_string());
        };
        match code {
            Code::MessageSizeTooLarge
            | Code::InvalidMessageSize
            | Code::MessageBatchTooLarge
            | Code::InvalidArgument
            | Code::InvalidTopic
            | Code::InvalidTimestamp
            | Code::InvalidRecord
            | Code::PolicyViolation => Refusal::Event(code.to_string()),
            Code::TopicAuthorizationFailed
            | Code::UnknownPartition
            | Code::UnknownTopic
            | Code::UnknownTopicOrPartition => {
                if self.topics.iter().any(|own| own == topic) {
                    Refusal::Kafka(format!("{topic}: {code}"))
                } else {
                    Refusal::Event(code.to_string())
                }
            }
            _ => Refusal::Kafka(code.to_string()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
