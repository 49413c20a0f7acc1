//! Debezium's outbox event router in Kafka Connect, standalone.
//!
//! What differs from the defaults was found by trying what raises its rate or lowers its latency. A short poll interval is what its
//! latency wants most: it waits that long twice, for PostgreSQL and for a batch to fill. Larger batches and queues made it no faster.

use std::{fs, path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result};
use commerce_core::{
    event::header,
    testing::{Postgres, java_home, stores},
};
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tokio::process::Command;

use super::{outbox::Outbox, topic::Topic};
use crate::{
    postgres::administer,
    program::{Program, free_address},
    repository,
};

/// Whether the connector reads the log; it makes the slot when it first starts.
pub const ACTIVE: &str = "select active from pg_replication_slots where slot_name = 'debezium'";

// Rows as they are written to the outbox, not to one of its partitions; only the columns that it uses.
const PUBLICATION: &str = "
    create publication debezium for table outbox_log (event_id, aggregate_id, event_type, payload, correlation_id)
      with (publish = 'insert', publish_via_partition_root = true)";

const LOG4J: &str = r#"
<Configuration status="ERROR">
  <Appenders>
    <Console name="err" target="SYSTEM_ERR"><PatternLayout pattern="%d{ISO8601} %p %m (%c)%n%throwable{5}"/></Console>
  </Appenders>
  <Loggers><Root level="ERROR"><AppenderRef ref="err"/></Root></Loggers>
</Configuration>
"#;

/// Kafka Connect with one connector. It can be started again, and then goes on where it ended.
pub struct Connect {
    folder: TempDir,
    classpath: String,
    java: PathBuf,
}

impl Connect {
    pub async fn configure(server: &Postgres, outbox: &Outbox, topic: &Topic) -> Result<Self> {
        administer(server, &outbox.database, &[PUBLICATION]).await?;
        let folder = TempDir::with_prefix("commerce-bench-").context("making a folder for Kafka Connect")?;
        let plugins = repository::assembled("debezium", &[]).await?;
        let worker = worker(
            &topic.kafka.bootstrap_servers,
            &folder.path().join("offsets").display().to_string(),
            &plugins.display().to_string(),
            &free_address()?.to_string(),
        );
        let postgres: PgConnectOptions = server.admin_url().parse()?;
        let connector = connector(
            postgres.get_port(),
            postgres.get_username(),
            &outbox.database,
            &topic.kafka.topic_prefix,
        );
        for (name, text) in [
            ("worker.properties", worker.as_str()),
            ("connector.properties", &connector),
            ("log4j2.xml", LOG4J),
        ] {
            fs::write(folder.path().join(name), text).with_context(|| format!("writing {name}"))?;
        }
        Ok(Self {
            folder,
            classpath: format!("{}/kafka/lib/*", stores().await?.display()),
            java: java_home()?.join("bin/java"),
        })
    }

    pub fn start(&self) -> Result<Program> {
        let mut command = Command::new(&self.java);
        command
            .args([
                "-Xms512m",
                "-Xmx512m",
                "-Dlog4j2.configurationFile=log4j2.xml",
                "-cp",
            ])
            .args([
                self.classpath.as_str(),
                "org.apache.kafka.connect.cli.ConnectStandalone",
            ])
            .args(["worker.properties", "connector.properties"])
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        Program::start(command)
    }
}

fn worker(kafka: &str, offsets: &str, plugins: &str, listener: &str) -> String {
    format!(
        "bootstrap.servers={kafka}
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.storage.StringConverter
offset.storage.file.filename={offsets}
offset.flush.interval.ms=1000
plugin.path={plugins}
plugin.discovery=service_load
listeners=http://{listener}
"
    )
}

/// The server takes everybody's word for who they are, so the password is nothing in particular.
fn connector(port: u16, user: &str, database: &str, topic_prefix: &str) -> String {
    format!(
        "name=outbox
connector.class=io.debezium.connector.postgresql.PostgresConnector
tasks.max=1
plugin.name=pgoutput
database.hostname=127.0.0.1
database.port={port}
database.user={user}
database.password=none
database.dbname={database}
topic.prefix=debezium
slot.name=debezium
publication.name=debezium
publication.autocreate.mode=disabled
publish.via.partition.root=true
table.include.list=public.outbox_log
snapshot.mode=no_data
tombstones.on.delete=false
transforms=outbox
transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
transforms.outbox.table.field.event.id=event_id
transforms.outbox.table.field.event.key=aggregate_id
transforms.outbox.table.field.event.type=event_type
transforms.outbox.table.field.event.payload=payload
transforms.outbox.table.fields.additional.placement=correlation_id:header:{correlation_id}
transforms.outbox.route.by.field=event_type
transforms.outbox.route.topic.replacement={topic_prefix}${{routedByValue}}
poll.interval.ms=1
producer.override.linger.ms=1
producer.override.batch.size=262144
producer.override.compression.type=lz4
",
        correlation_id = header::CORRELATION_ID,
    )
}
