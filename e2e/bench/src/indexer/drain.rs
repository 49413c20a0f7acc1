//! The indexer, with a backlog in Kafka.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use commerce_core::{
    event::EventType,
    kafka::KafkaConfig,
    topics::{self, TopicSpec},
};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer},
};
use tokio::time::{Instant, sleep};

use super::{
    Bench,
    table::{INDEXER, Row},
};
use crate::{
    cpu,
    program::{Program, beside, free_address},
};

const PARTITIONS: i32 = 6;
/// How often the indexer is asked how far it is when it begins and ends…
const GLANCE: Duration = Duration::from_millis(50);
/// … and in between, as each answer costs it time.
const SELDOM: Duration = Duration::from_millis(500);
/// Nothing new for so long is a failure.
const PATIENCE: Duration = Duration::from_mins(1);

impl Bench {
    /// Each turn has topics of its own.
    pub(super) async fn indexer(&self, turn: usize) -> Result<Row> {
        let kafka = KafkaConfig::plaintext(self.kafka.bootstrap(), format!("bench-{turn}."));
        self.fill(&kafka).await?;
        let index = self.index("indexer").await?;
        self.at_rest().await?;
        let address = free_address()?;
        let mut command = beside("indexer")?;
        command
            .arg("serve")
            .env("ADMIN_ADDR", address.to_string())
            .env("KAFKA_BOOTSTRAP_SERVERS", &kafka.bootstrap_servers)
            .env("KAFKA_TOPIC_PREFIX", &kafka.topic_prefix)
            .env("ELASTICSEARCH_URL", index.url.as_str())
            .env("ELASTICSEARCH_INDEX", &index.index)
            .env("REDIS_URL", self.redis.url())
            .env("LOG_LEVEL", "warn")
            .stdin(Stdio::null());
        let mut program = Program::start(command)?;

        let metrics = format!("http://{address}/metrics");
        program.answers(&format!("http://{address}/livez")).await?;
        let mut first = None;
        let (mut seen, mut until) = (0, Instant::now() + PATIENCE);
        let (began, before, known) = loop {
            let count = indexed(&self.get(&metrics).await?)?;
            program.runs()?;
            if count > seen {
                (seen, until) = (count, Instant::now() + PATIENCE);
            }
            ensure!(Instant::now() < until, "nothing new is indexed: {count} are");
            if first.is_none() && count > 0 {
                let cpu = (cpu::of_tree(program.id())?, self.stores()?);
                first = Some((Instant::now(), cpu, count));
            }
            if count >= self.orders.count {
                break first.context("all was indexed at once; it takes more events")?;
            }
            let in_between = first.is_some() && count < self.orders.count / 10 * 9;
            sleep(if in_between { SELDOM } else { GLANCE }).await;
        };
        let took = began.elapsed();
        let after = (cpu::of_tree(program.id())?, self.stores()?);
        self.check(&index, self.orders.count).await?;
        let memory = program.peak_memory()?;
        program.stop().await?;
        self.drop(&index).await?;
        let documents = self.orders.count - known;
        ensure!(documents > 0, "all was indexed at once; it takes more events");
        Ok(Row {
            name: INDEXER.to_owned(),
            rate: f64::from(documents) / took.as_secs_f64(),
            program: Some(after.0.saturating_sub(before.0) / documents),
            stores: [0, 1].map(|store| after.1[store].saturating_sub(before.1[store]) / documents),
            memory: Some(memory),
        })
    }

    /// Puts the event of each order into Kafka.
    pub(super) async fn fill(&self, kafka: &KafkaConfig) -> Result<()> {
        create_topics(kafka).await?;
        let mut client = kafka.client("bench");
        client.set("compression.type", "lz4");
        let producer: ThreadedProducer<DefaultProducerContext> = client.create()?;
        let topic = kafka.topic(EventType::OrderCreated.topic());
        for number in 1..=self.orders.count {
            let event = self.orders.event(number);
            let value = serde_json::to_vec(&event)?;
            let mut record = BaseRecord::to(&topic).key(&event.order_id).payload(&value);
            while let Err((error, back)) = producer.send(record) {
                ensure!(
                    matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)),
                    "sending an event: {error}"
                );
                record = back;
                sleep(Duration::from_millis(1)).await;
            }
        }
        tokio::task::spawn_blocking(move || producer.flush(PATIENCE)).await??;
        Ok(())
    }
}

pub(super) async fn create_topics(kafka: &KafkaConfig) -> Result<()> {
    let spec = TopicSpec {
        partitions: PARTITIONS,
        replication_factor: 1,
        config: BTreeMap::new(),
    };
    topics::ensure(kafka, &spec).await?;
    Ok(())
}

/// How many documents an indexer has written, by its metrics.
pub(super) fn indexed(metrics: &str) -> Result<u32> {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("commerce_indexer_events_total{outcome=\"indexed\"} "));
    Ok(line.map_or(Ok(0), str::parse)?)
}
