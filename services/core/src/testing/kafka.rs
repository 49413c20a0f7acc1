//! Kafka for tests: one process that is broker and controller.

use std::{ops::Deref, time::Duration};

use futures::FutureExt as _;
use rdkafka::{
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _},
};
use tokio::{net::TcpStream, task::spawn_blocking};

use super::{
    Error, Process, Proxy, distribution,
    ports::Port,
    process::{Spec, failure},
};
use crate::kafka::KafkaConfig;

// `meta.properties` is all that Kafka's own `format` would write here, and that takes a second.
const SCRIPT: &str = r#"
    [ -d data ] || { mkdir making && cp meta.properties making && mv making data; } || exit 1
    exec "$JAVA_HOME/bin/java" -Xms64m -Xmx320m -XX:+UseSerialGC $COMPILER -XX:+ExitOnOutOfMemoryError \
        -Dlog4j2.configurationFile=log4j2.xml -cp "$STORES/kafka/lib/*" kafka.Kafka server.properties
"#;

/// Starts sooner, and costs the tests less.
const QUICK: &str = "-XX:TieredStopAtLevel=1";

const META: &str =
    "version=1\ncluster.id=commercetestscluster00\nnode.id=1\ndirectory.id=commercetestsdirectory\n";

/// A running Kafka; [`Process`] has what can be done to it.
#[derive(Debug)]
pub struct Kafka {
    process: Process,
    broker: Port,
    _controller: Port,
}

impl Kafka {
    /// Starts one on free ports, without topics. It creates none by itself.
    pub async fn start() -> Result<Self, Error> {
        let broker = claim()?;
        let advertised = broker.number;
        Self::launch(broker, advertised, QUICK).await
    }

    /// Starts one whose JVM compiles what runs often as in production, which takes it minutes: for measurements.
    pub async fn optimised() -> Result<Self, Error> {
        let broker = claim()?;
        let advertised = broker.number;
        Self::launch(broker, advertised, "").await
    }

    /// Starts one which tells clients to come through the proxy.
    pub async fn behind_proxy() -> Result<(Self, Proxy), Error> {
        let broker = claim()?;
        let proxy = Proxy::start(bootstrap(&broker)).await?;
        let kafka = Self::launch(broker, proxy.port(), QUICK).await?;
        Ok((kafka, proxy))
    }

    async fn launch(broker: Port, advertised: u16, compiler: &str) -> Result<Self, Error> {
        let stores = distribution::stores().await?;
        let controller = claim()?;
        let spec = Spec {
            store: "kafka",
            script: SCRIPT,
            variables: vec![
                ("STORES", stores.display().to_string()),
                ("JAVA_HOME", distribution::java_home()?.display().to_string()),
                ("COMPILER", compiler.to_owned()),
            ],
            files: vec![
                (
                    "server.properties",
                    settings(broker.number, controller.number, advertised),
                ),
                ("meta.properties", META.to_owned()),
                ("log4j2.xml", include_str!("log4j2.xml").to_owned()),
            ],
        };
        let address = bootstrap(&broker);
        let process = Process::start(spec, move || metadata(address.clone()).boxed()).await?;
        Ok(Self {
            process,
            broker,
            _controller: controller,
        })
    }

    /// `127.0.0.1:<port>`
    #[must_use]
    pub fn bootstrap(&self) -> String {
        bootstrap(&self.broker)
    }
}

impl Deref for Kafka {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

fn settings(broker: u16, controller: u16, advertised: u16) -> String {
    format!(
        "{common}
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
",
        common = common_settings(controller)
    )
}

/// Few threads and small buffers: the machine is shared with three more stores and the tests themselves.
pub(super) fn common_settings(controller: u16) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
log.dirs=data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=2
background.threads=2
log.cleaner.dedupe.buffer.size=4194304"
    )
}

fn claim() -> Result<Port, Error> {
    Port::claim().map_err(failure("kafka", "finding a port"))
}

fn bootstrap(broker: &Port) -> String {
    format!("127.0.0.1:{}", broker.number)
}

/// The broker answers a client only when it has joined its cluster.
async fn metadata(address: String) -> Result<(), String> {
    // librdkafka complains in the log about a port that nobody listens on.
    TcpStream::connect(&address)
        .await
        .map_err(|error| error.to_string())?;
    let ask = move || {
        let mut client = KafkaConfig::plaintext(address, "").client("readiness");
        let consumer: BaseConsumer = client.set_log_level(RDKafkaLogLevel::Emerg).create()?;
        consumer.fetch_metadata(None, Duration::from_secs(3)).map(drop)
    };
    let answer = spawn_blocking(ask).await.map_err(|error| error.to_string())?;
    answer.map_err(|error: rdkafka::error::KafkaError| error.to_string())
}
