//! Flink SQL with its connectors for Kafka and Elasticsearch, as one process with a mini-cluster in it.
//!
//! Its connector is for Elasticsearch 7: it can't read what 8.x answers to bulk requests, so it gets an Elasticsearch 7.17 with the
//! same settings. It makes the indexer's documents and writes them as upserts by order id; it has no external versions. What
//! differs from the defaults was found by trying what raises its rate.

use std::{fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use commerce_core::{
    elasticsearch::{ElasticsearchConfig, body},
    event::EventType,
    index::{self, IndexSpec},
    kafka::KafkaConfig,
    testing::{Elasticsearch, java_home},
};
use elasticsearch::{Elasticsearch as Client, indices::IndicesStatsParts};
use tempfile::TempDir;
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use super::{
    Bench, TIMEOUT,
    loader::load,
    table::{FLINK, Row},
};
use crate::{
    cpu,
    program::{Program, free_address},
    repository,
};

const GLANCE: Duration = Duration::from_millis(100);
/// Nothing new for so long is a failure. The JVM takes a while to start.
const PATIENCE: Duration = Duration::from_mins(2);
/// To warm Elasticsearch up as the other one was on average: the number of loads, and documents of each in all and of a request.
const WARM_UP: (u32, u32, u32) = (84, 50_000, 2_000);

// Reflection on the JDK's own classes, which Flink's serialisers want.
const OPENED: [&str; 6] = [
    "java.lang",
    "java.lang.reflect",
    "java.net",
    "java.time",
    "java.util",
    "java.util.concurrent",
];

const LOG4J: &str = r#"
<Configuration status="ERROR">
  <Appenders>
    <Console name="err" target="SYSTEM_ERR"><PatternLayout pattern="%d{ISO8601} %p %m (%c)%n%throwable{5}"/></Console>
  </Appenders>
  <Loggers><Root level="ERROR"><AppenderRef ref="err"/></Root></Loggers>
</Configuration>
"#;

impl Bench {
    /// The faster of one and two subtasks.
    pub(super) async fn flink(&self) -> Result<Row> {
        let programs = repository::assembled("flink", &[]).await?;
        let store = Elasticsearch::optimised_of(&programs).await?;
        self.warm_up(&store).await?;
        let kafka = KafkaConfig::plaintext(self.kafka.bootstrap(), "flink.");
        self.fill(&kafka).await?;
        let mut fastest: Option<Row> = None;
        for parallelism in 1..=2 {
            let row = self.drained(parallelism, &programs, &store, &kafka).await?;
            if fastest.as_ref().is_none_or(|fastest| row.rate > fastest.rate) {
                fastest = Some(row);
            }
        }
        fastest.context("nothing was tried")
    }

    async fn drained(
        &self,
        parallelism: u32,
        programs: &Path,
        store: &Elasticsearch,
        kafka: &KafkaConfig,
    ) -> Result<Row> {
        let index = new_index(store, &format!("flink-{parallelism}")).await?;
        let folder = TempDir::with_prefix("commerce-bench-").context("making a folder for Flink")?;
        for (name, text) in [
            (
                "flink-conf.yaml",
                configuration(parallelism, free_address()?.port()),
            ),
            ("job.sql", job(kafka, &index)),
            ("log4j2.xml", LOG4J.to_owned()),
        ] {
            fs::write(folder.path().join(name), text).with_context(|| format!("writing {name}"))?;
        }
        cpu::at_rest(&[store.id(), self.kafka.id()]).await?;
        let mut program = start(programs, folder.path())?;

        let stores = || anyhow::Ok([cpu::of_tree(store.id())?, cpu::of_tree(self.kafka.id())?]);
        let client = index.client(TIMEOUT)?;
        let count = self.orders.count;
        let mut first = None;
        let (mut seen, mut until) = (0, Instant::now() + PATIENCE);
        let (began, before, known) = loop {
            let found = written(&client, &index.index).await?;
            program.runs()?;
            if found > seen {
                (seen, until) = (found, Instant::now() + PATIENCE);
            }
            ensure!(Instant::now() < until, "nothing new is indexed: {found} are");
            // By then, the JVM has compiled what runs often.
            if first.is_none() && found > count / 5 {
                let cpu = (cpu::of_tree(program.id())?, stores()?);
                first = Some((Instant::now(), cpu, found));
            }
            if found >= count {
                break first.context("all was indexed at once; it takes more events")?;
            }
            sleep(GLANCE).await;
        };
        let took = began.elapsed();
        let after = (cpu::of_tree(program.id())?, stores()?);
        self.check(&index, count).await?;
        let memory = program.peak_memory()?;
        program.stop().await?;
        self.drop(&index).await?;
        let documents = count.saturating_sub(known);
        ensure!(documents > 0, "all was indexed at once; it takes more events");
        Ok(Row {
            name: format!("{FLINK}, parallelism {parallelism}, Elasticsearch 7.17"),
            rate: f64::from(documents) / took.as_secs_f64(),
            program: Some(after.0.saturating_sub(before.0) / documents),
            stores: [0, 1].map(|store| after.1[store].saturating_sub(before.1[store]) / documents),
            memory: Some(memory),
        })
    }

    async fn warm_up(&self, store: &Elasticsearch) -> Result<()> {
        let (loads, documents, size) = WARM_UP;
        let bodies = self.orders.bodies(documents, size)?;
        for number in 0..loads {
            let index = new_index(store, &format!("warm-{number}")).await?;
            load(&index, &bodies, 2).await?;
            self.drop(&index).await?;
        }
        Ok(())
    }
}

/// As that of the indexer.
async fn new_index(store: &Elasticsearch, alias: &str) -> Result<ElasticsearchConfig> {
    let config = ElasticsearchConfig::open(store.url().clone(), alias);
    index::ensure(&config.client(TIMEOUT)?, &IndexSpec::new(alias)).await?;
    Ok(config)
}

/// How many documents Elasticsearch has written.
async fn written(client: &Client, alias: &str) -> Result<u32> {
    let (indices, alias) = (client.indices(), [alias]);
    let stats = indices.stats(IndicesStatsParts::IndexMetric(&alias, &["indexing"]));
    let answer = body("count what was written", stats.send().await).await?;
    let total = answer["_all"]["primaries"]["indexing"]["index_total"].as_u64();
    Ok(u32::try_from(total.context("index_total")?)?)
}

/// With the files of `folder`.
fn start(programs: &Path, folder: &Path) -> Result<Program> {
    let opened = OPENED.map(|package| format!("--add-opens=java.base/{package}=ALL-UNNAMED"));
    let mut command = Command::new(java_home()?.join("bin/java"));
    command
        .args(["-Xms1g", "-Xmx1g", "-Dlog4j2.configurationFile=log4j2.xml"])
        // It keeps a history of commands there, and wants to know that nobody sits before it.
        .arg(format!("-Duser.home={}", folder.display()))
        .arg("-Dorg.jline.terminal.dumb=true")
        .args(opened)
        .args(["-cp", &format!("{}/lib/*", programs.display())])
        .args([
            "org.apache.flink.table.client.SqlClient",
            "embedded",
            "-f",
            "job.sql",
        ])
        .env("FLINK_CONF_DIR", folder)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Program::start(command)
}

fn configuration(parallelism: u32, port: u16) -> String {
    format!(
        "execution.target: local
execution.attached: true
execution.checkpointing.interval: 10s
execution.checkpointing.mode: AT_LEAST_ONCE
parallelism.default: {parallelism}
taskmanager.numberOfTaskSlots: 2
pipeline.object-reuse: true
table.dml-sync: true
rest.address: 127.0.0.1
rest.bind-address: 127.0.0.1
rest.port: {port}
"
    )
}

fn job(kafka: &KafkaConfig, index: &ElasticsearchConfig) -> String {
    let fields = "orderId STRING, skuId BIGINT, quantity INT, userId STRING, status STRING, version BIGINT, \
                  correlationId STRING, createdAt STRING";
    let topic = kafka.topic(EventType::OrderCreated.topic());
    format!(
        "CREATE TABLE events (
  {fields},
  publishedAt TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL,
  topic STRING METADATA VIRTUAL,
  `partition` INT METADATA VIRTUAL,
  `offset` BIGINT METADATA VIRTUAL
) WITH (
  'connector' = 'kafka',
  'topic' = '{topic}',
  'properties.bootstrap.servers' = '{}',
  'properties.group.id' = 'flink',
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'json'
);
CREATE TABLE documents (
  {fields},
  publishedAt TIMESTAMP_LTZ(3),
  indexedAt TIMESTAMP_LTZ(3),
  topic STRING,
  `partition` INT,
  `offset` BIGINT,
  PRIMARY KEY (orderId) NOT ENFORCED
) WITH (
  'connector' = 'elasticsearch-7',
  'hosts' = '{}',
  'index' = '{}',
  'sink.bulk-flush.max-actions' = '1000',
  'sink.bulk-flush.max-size' = '5mb',
  'sink.bulk-flush.interval' = '1s',
  'sink.bulk-flush.backoff.strategy' = 'EXPONENTIAL',
  'format' = 'json',
  'json.timestamp-format.standard' = 'ISO-8601'
);
INSERT INTO documents
SELECT orderId, skuId, quantity, userId, status, version, correlationId, createdAt,
  publishedAt, CURRENT_TIMESTAMP, topic, `partition`, `offset`
FROM events;
",
        kafka.bootstrap_servers,
        index.url.as_str().trim_end_matches('/'),
        index.index,
    )
}
