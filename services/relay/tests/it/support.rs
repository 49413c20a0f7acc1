//! A database, topics, relays and the checker that compares them.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use commerce_core::{
    config::Env,
    event::header,
    kafka::KafkaConfig,
    postgres,
    testing::{Kafka, Postgres, Proxy, shared},
    topics::{self, TopicSpec},
};
use commerce_relay::{Config, Relay, invariants::Audit, lane};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};
use secrecy::SecretString;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, PgPool, Row as _, postgres::PgPoolOptions};
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const CREATED: &str = "order.created";
pub const CANCELLED: &str = "order.cancelled";
/// How long anything may take that is not measured.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A database and topics of one test's own.
pub struct World {
    pub url: String,
    pub pool: PgPool,
    pub kafka: KafkaConfig,
}

/// A relay in this process.
pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
    pub admin: SocketAddr,
}

/// A relay in a process of its own.
pub struct Process {
    child: Child,
    pub admin: SocketAddr,
}

/// What a program had to say.
pub struct Answer {
    pub status: ExitStatus,
    pub output: String,
    pub error: String,
}

/// A Kafka message.
#[derive(Debug, Clone)]
pub struct Published {
    pub topic: String,
    pub key: String,
    pub payload: String,
    pub headers: BTreeMap<String, String>,
}

impl World {
    /// On the stores that all tests share.
    pub async fn new() -> Result<Self> {
        let database = shared().database().await?;
        Self::with(database.url().to_owned(), shared().kafka_config().await?).await
    }

    /// On a PostgreSQL of the test's own.
    pub async fn on_postgres(server: &Postgres) -> Result<Self> {
        let options = postgres::parse_url(&SecretString::from(server.url())).context("no PostgreSQL URL")?;
        postgres::migrate(&options).await?;
        Self::with(server.url(), shared().kafka_config().await?).await
    }

    /// On a Kafka of the test's own.
    pub async fn on_kafka(server: &Kafka) -> Result<Self> {
        let database = shared().database().await?;
        Self::with(
            database.url().to_owned(),
            KafkaConfig::plaintext(server.bootstrap(), ""),
        )
        .await
    }

    async fn with(url: String, kafka: KafkaConfig) -> Result<Self> {
        let spec = TopicSpec {
            partitions: 3,
            replication_factor: 1,
            config: BTreeMap::new(),
        };
        topics::ensure(&kafka, &spec).await?;
        let pool = PgPoolOptions::new().max_connections(8).connect_lazy(&url)?;
        Ok(Self { url, pool, kafka })
    }

    /// The same world for a relay that gets to PostgreSQL through the proxy only.
    pub fn behind(&self, proxy: &Proxy) -> Result<Config> {
        let mut config = self.config()?;
        config.postgres.options = config.postgres.options.port(proxy.port());
        Ok(config)
    }

    /// `host:port` of PostgreSQL.
    pub fn postgres(&self) -> Result<String> {
        let options = self.config()?.postgres.options;
        Ok(format!("{}:{}", options.get_host(), options.get_port()))
    }

    pub async fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.url).await?)
    }

    pub fn config(&self) -> Result<Config> {
        let env = Env::from_pairs([
            ("ADMIN_ADDR", "127.0.0.1:0"),
            ("DATABASE_URL", &self.url),
            ("KAFKA_BOOTSTRAP_SERVERS", &self.kafka.bootstrap_servers),
            ("KAFKA_TOPIC_PREFIX", &self.kafka.topic_prefix),
        ]);
        Ok(Config::from_env(env)?.0)
    }

    /// Starts a relay in this process.
    pub async fn relay(&self) -> Result<Running> {
        self.relay_with(self.config()?).await
    }

    pub async fn relay_with(&self, config: Config) -> Result<Running> {
        let relay = Relay::bind(config).await?;
        let (admin, stop) = (relay.admin_addr()?, CancellationToken::new());
        let task = tokio::spawn(relay.run(stop.clone()));
        Ok(Running { stop, task, admin })
    }

    /// Starts the relay's program, and waits until its admin port answers.
    pub async fn process(&self) -> Result<Process> {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?
            .local_addr()?
            .port();
        let admin = SocketAddr::from(([127, 0, 0, 1], port));
        let child = Command::new(env!("CARGO_BIN_EXE_relay"))
            .arg("serve")
            .env("ADMIN_ADDR", admin.to_string())
            .env("DATABASE_URL", &self.url)
            .env("KAFKA_BOOTSTRAP_SERVERS", &self.kafka.bootstrap_servers)
            .env("KAFKA_TOPIC_PREFIX", &self.kafka.topic_prefix)
            .stderr(Stdio::null())
            .spawn()?;
        let process = Process { child, admin };
        eventually("the relay's admin port answers", async || {
            status(admin).await.is_ok()
        })
        .await?;
        Ok(process)
    }

    /// `relay parked …`, with the database's address and nothing else in its environment.
    pub async fn parked(&self, arguments: &[&str]) -> Result<Answer> {
        parked(arguments, &[("DATABASE_URL", &self.url)]).await
    }

    /// Commits one event of an order.
    pub async fn commit(&self, order: u32, topic: &str) -> Result<i64> {
        let mut transaction = self.pool.begin().await?;
        let id = insert(&mut transaction, order, topic, "").await?;
        transaction.commit().await?;
        Ok(id)
    }

    /// Commits `count` events, spread over `orders` orders.
    pub async fn commit_many(&self, count: i32, orders: i32) -> Result<()> {
        const MANY: &str = "
            insert into outbox_log (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload,
                                    correlation_id)
            select gen_random_uuid(), 'order', (n % $2)::text, n / $2, 'order.created',
                   jsonb_build_object('orderId', (n % $2)::text, 'skuId', 17, 'quantity', 2, 'userId', 'user-' || n,
                       'status', 'CREATED', 'version', 1, 'correlationId', gen_random_uuid(),
                       'eventType', 'ORDER_CREATED', 'createdAt', now()), 'c'
              from generate_series(1, $1) n";
        sqlx::query(MANY)
            .bind(count)
            .bind(orders)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    pub async fn count(&self, status: &str) -> Result<i64> {
        let count = sqlx::query_scalar("select count(*) from outbox_events where status = $1").bind(status);
        Ok(count.fetch_one(&self.pool).await?)
    }

    /// The token of the lease, and whether somebody holds it.
    pub async fn lease(&self) -> Result<(i64, bool)> {
        const LEASE: &str =
            "select token, coalesce(lease_expires_at > clock_timestamp(), false) from relay_checkpoint";
        Ok(sqlx::query_as(LEASE).fetch_one(&self.pool).await?)
    }

    /// Waits until everything committed, and not discarded, has the status SENT.
    pub async fn all_sent(&self) -> Result<()> {
        const UNSENT: &str =
            "select count(*) from outbox_events where status <> 'SENT' and discarded_at is null";
        let unsent = async || sqlx::query_scalar::<_, i64>(UNSENT).fetch_one(&self.pool).await;
        eventually("every event is SENT", async || {
            unsent().await.is_ok_and(|count| count == 0)
        })
        .await
    }

    /// Everything in the topics, in the order of each partition.
    pub async fn published(&self) -> Result<Vec<Published>> {
        let kafka = self.kafka.clone();
        spawn_blocking(move || read_topics(&kafka)).await?
    }

    /// Compares table and topics: nothing lost, nothing that was not committed, per order the order of the outbox.
    /// Returns how many messages were duplicates.
    pub async fn check(&self) -> Result<usize> {
        const COMMITTED: &str = "
            select event_id::text, log.outbox_id, discarded_at is not null
              from outbox_log log
              left join outbox_parked parked on parked.outbox_id = log.outbox_id";
        let committed: Vec<(String, i64, bool)> = sqlx::query_as(COMMITTED).fetch_all(&self.pool).await?;
        let ids: HashMap<&str, i64> = committed
            .iter()
            .map(|(id, outbox_id, _)| (&**id, *outbox_id))
            .collect();
        let mut audit = Audit::default();
        for message in self.published().await? {
            let id = message
                .headers
                .get(header::ID)
                .context("a message without ce_id")?;
            let outbox_id = ids
                .get(&**id)
                .with_context(|| format!("the event {id} was published but not committed"))?;
            // Nobody can tell the order of messages in different topics.
            audit.published(lane(&message.topic, &message.key), *outbox_id)?;
        }
        let wanted = committed.iter().filter(|(.., discarded)| !discarded);
        audit.covers(wanted.map(|(_, outbox_id, _)| *outbox_id))?;
        Ok(audit.duplicates())
    }
}

impl Running {
    /// As SIGTERM does.
    pub async fn stop(self) -> Result<()> {
        self.stop.cancel();
        Ok(self.task.await??)
    }

    /// Ends it wherever it is, without a chance to do anything more.
    pub async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub async fn active(&self) -> Result<()> {
        state(self.admin, "active").await
    }

    pub async fn standby(&self) -> Result<()> {
        state(self.admin, "standby").await
    }
}

impl Process {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) -> Result<()> {
        let done = Command::new("kill")
            .args([&format!("-{signal}"), &self.child.id().to_string()])
            .status()?;
        ensure!(done.success(), "sending {signal} to the relay");
        Ok(())
    }

    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Answer {
    /// What it printed, if all went well.
    pub fn done(self) -> Result<String> {
        ensure!(self.status.success() && self.error.is_empty(), "{}", self.error);
        Ok(self.output)
    }

    /// The one line that says why not, without its end.
    pub fn refused(self) -> Result<String> {
        ensure!(self.status.code() == Some(1), "{}: {}", self.status, self.output);
        let line = self.error.strip_suffix('\n').context("no line")?;
        ensure!(!line.contains('\n'), "more than one line: {line}");
        Ok(line.to_owned())
    }
}

/// `relay parked …` with this environment.
pub async fn parked(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Answer> {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_relay"))
        .arg("parked")
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .await?;
    Ok(Answer {
        status: output.status,
        output: String::from_utf8(output.stdout)?,
        error: String::from_utf8(output.stderr)?,
    })
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A filler that makes an event larger than a topic takes, by default: nothing of it is repeated, so compression does not help.
pub fn too_large() -> String {
    (0..50_000).map(|_| Uuid::new_v4().simple().to_string()).collect()
}

/// Inserts an event, after locking its order as the API does. `filler` makes the payload longer.
pub async fn insert(connection: &mut PgConnection, order: u32, topic: &str, filler: &str) -> Result<i64> {
    const LOCK: &str = "select pg_advisory_xact_lock(7, $1)";
    sqlx::query(LOCK)
        .bind(i32::try_from(order)?)
        .execute(&mut *connection)
        .await?;
    insert_locked(connection, order, topic, filler).await
}

/// Inserts an event of an order that is locked already.
pub async fn insert_locked(
    connection: &mut PgConnection,
    order: u32,
    topic: &str,
    filler: &str,
) -> Result<i64> {
    const INSERT: &str = "
        insert into outbox_log (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload, headers,
                                correlation_id)
        values (gen_random_uuid(), 'order', $1, 1, $2, jsonb_build_object('orderId', $1, 'filler', $3),
                jsonb_build_object('traceparent', '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'), 'test-1')
        returning outbox_id";
    let insert = sqlx::query(INSERT)
        .bind(order.to_string())
        .bind(topic)
        .bind(filler);
    Ok(insert.fetch_one(connection).await?.try_get(0)?)
}

pub async fn status(admin: SocketAddr) -> Result<Value> {
    Ok(reqwest::get(format!("http://{admin}/status"))
        .await?
        .json()
        .await?)
}

pub async fn readiness(admin: SocketAddr) -> Result<Value> {
    Ok(reqwest::get(format!("http://{admin}/readyz"))
        .await?
        .json()
        .await?)
}

async fn state(admin: SocketAddr, state: &str) -> Result<()> {
    let is = async || status(admin).await.is_ok_and(|status| status["state"] == state);
    eventually(&format!("the relay is {state}"), is).await
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while !condition().await {
        if Instant::now() > until {
            bail!("not within {} s: {what}", PATIENCE.as_secs());
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn read_topics(kafka: &KafkaConfig) -> Result<Vec<Published>> {
    let consumer: BaseConsumer = kafka.client("checker").set("group.id", "checker").create()?;
    let mut ends = HashMap::new();
    let mut assignment = TopicPartitionList::new();
    for topic in [CREATED, CANCELLED].map(|topic| kafka.topic(topic)) {
        for partition in 0..3 {
            let (low, high) = consumer.fetch_watermarks(&topic, partition, PATIENCE)?;
            if high > low {
                ends.insert((topic.clone(), partition), high);
                assignment.add_partition_offset(&topic, partition, Offset::Beginning)?;
            }
        }
    }
    consumer.assign(&assignment)?;
    let mut published = Vec::new();
    while !ends.is_empty() {
        let message = consumer.poll(PATIENCE).context("the topics do not end")??;
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let headers = message
            .headers()
            .into_iter()
            .flat_map(rdkafka::message::Headers::iter);
        let headers = headers
            .map(|header| (header.key.to_owned(), text(header.value)))
            .collect();
        let at = (message.topic().to_owned(), message.partition());
        // Offsets may have gaps, but the last one before the end is always a message here.
        if ends.get(&at).is_some_and(|end| message.offset() + 1 >= *end) {
            ends.remove(&at);
        }
        published.push(Published {
            topic: at.0,
            key: text(message.key()),
            payload: text(message.payload()),
            headers,
        });
    }
    Ok(published)
}
