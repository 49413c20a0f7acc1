//! The least that publishing costs with the same client: messages that are in memory already, sent by nothing but librdkafka.

use std::{
    io::Write as _,
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use commerce_core::{config::Env, event::header, kafka::KafkaConfig, postgres::PostgresConfig};
use commerce_relay::producer_settings;
use rdkafka::{
    ClientContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer},
};
use sqlx::{Connection as _, PgConnection};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::ChildStdin,
    time::sleep,
};

use crate::program::{Program, beside};

/// The messages that the relay would make of an outbox, with their headers.
struct Message {
    topic: String,
    key: String,
    payload: String,
    headers: OwnedHeaders,
}

/// Event type, order, payload, event id, time, correlation id, place in the outbox.
type Row = (String, String, String, String, String, String, String);

/// Counts what Kafka acknowledged.
#[derive(Default)]
struct Acknowledged(AtomicUsize);

/// A process of the bare producer's own.
pub struct BareProducer {
    pub program: Program,
    orders: ChildStdin,
}

impl BareProducer {
    /// Starts it, and waits until it has read the outbox.
    pub async fn start(database: &str, kafka: &KafkaConfig) -> Result<Self> {
        let mut command = beside("bench")?;
        command
            .arg("produce")
            .env("DATABASE_URL", database)
            .env("KAFKA_BOOTSTRAP_SERVERS", &kafka.bootstrap_servers)
            .env("KAFKA_TOPIC_PREFIX", &kafka.topic_prefix)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut program = Program::start(command)?;
        let (orders, answers) = program.pipes().context("the bare producer has no pipes")?;
        let ready = BufReader::new(answers).lines().next_line().await?;
        ensure!(
            ready.is_some(),
            "the bare producer could not begin; its log is above"
        );
        Ok(Self { program, orders })
    }

    /// Lets it send. It stays there afterwards, so that its times can be read, until it is dropped.
    pub async fn send(&mut self) -> Result<()> {
        Ok(self.orders.write_all(b"send\n").await?)
    }
}

/// The bare producer's process: says when it is ready, sends when told to, and ends when its standard input does.
pub async fn run() -> Result<()> {
    let mut env = Env::from_process();
    let (postgres, kafka) = (
        PostgresConfig::from_env(&mut env),
        KafkaConfig::from_env(&mut env),
    );
    let (postgres, kafka) = env.finish(|| postgres.zip(kafka))?;
    // It connects while the messages are read.
    let producer = producer(&kafka)?;
    let messages = read(&postgres, &kafka).await?;
    writeln!(std::io::stdout(), "ready")?;
    let mut orders = std::io::stdin().lines();
    if orders.next().is_none() {
        return Ok(());
    }
    let count = messages.len();
    for message in messages {
        send(&producer, message).await?;
    }
    orders.for_each(drop);
    let acknowledged = producer.client().context().0.load(Ordering::Relaxed);
    ensure!(
        acknowledged == count,
        "Kafka acknowledged {acknowledged} of {count} messages"
    );
    Ok(())
}

async fn read(postgres: &PostgresConfig, kafka: &KafkaConfig) -> Result<Vec<Message>> {
    const READ: &str = r#"
        select event_type, aggregate_id, payload::text, event_id::text,
               to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), correlation_id,
               xid::text || ':' || outbox_id
          from outbox_log order by outbox_id"#;
    let mut connection = PgConnection::connect_with(&postgres.options).await?;
    let rows: Vec<Row> = sqlx::query_as(READ).fetch_all(&mut connection).await?;
    Ok(rows.into_iter().map(|row| Message::of(kafka, row)).collect())
}

impl Message {
    fn of(kafka: &KafkaConfig, (kind, order, payload, id, time, correlation, position): Row) -> Self {
        let headers = [
            (header::SPEC_VERSION, "1.0"),
            (header::ID, id.as_str()),
            (header::SOURCE, "/commerce-pipeline/orders"),
            (header::TYPE, kind.as_str()),
            (header::SUBJECT, order.as_str()),
            (header::TIME, time.as_str()),
            (header::CONTENT_TYPE, "application/json"),
            (header::CORRELATION_ID, correlation.as_str()),
            (header::OUTBOX_POSITION, position.as_str()),
        ];
        let empty = OwnedHeaders::new_with_capacity(headers.len());
        let headers = headers.into_iter().fold(empty, |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(value),
            })
        });
        Self {
            topic: kafka.topic(&kind),
            key: order,
            payload,
            headers,
        }
    }
}

/// With the relay's settings, and a queue that is always full.
fn producer(kafka: &KafkaConfig) -> Result<ThreadedProducer<Acknowledged>> {
    let mut client = kafka.client("commerce-bench");
    producer_settings(&mut client).set("queue.buffering.max.messages", "100000");
    client
        .create_with_context(Acknowledged::default())
        .context("making the producer")
}

async fn send(producer: &ThreadedProducer<Acknowledged>, message: Message) -> Result<()> {
    let mut record = BaseRecord::to(&message.topic)
        .key(message.key.as_str())
        .payload(message.payload.as_str())
        .headers(message.headers);
    while let Err((error, back)) = producer.send(record) {
        ensure!(
            error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull),
            "sending a message: {error}"
        );
        record = back;
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

impl ClientContext for Acknowledged {
    fn error(&self, error: KafkaError, reason: &str) {
        let _ = writeln!(std::io::stderr(), "{error}: {reason}");
    }
}

impl ProducerContext<NoCustomPartitioner> for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_ok() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}
