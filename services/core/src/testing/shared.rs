//! One set of stores for all tests of a process, with a corner of its own for each test.

use std::sync::atomic::{AtomicU32, Ordering};

use secrecy::SecretString;
use sqlx::PgPool;
use tokio::sync::OnceCell;

use super::{Durability, Elasticsearch, Error, Kafka, Postgres, Redis};
use crate::{
    elasticsearch::ElasticsearchConfig,
    kafka::KafkaConfig,
    postgres::{self, PostgresConfig},
    redis::RedisConfig,
};

/// The database that each test's own is copied from.
const TEMPLATE: &str = "migrated";

/// Stores that start when they are first asked for and run until the process ends.
///
/// They belong to every test of the process, so none may kill or pause them, flush Redis, or look at what it has not
/// made itself. A test that breaks a store starts one of its own.
#[derive(Debug)]
pub struct Shared {
    postgres: OnceCell<Postgres>,
    kafka: OnceCell<Kafka>,
    elasticsearch: OnceCell<Elasticsearch>,
    redis: OnceCell<Redis>,
}

/// A migrated, otherwise empty database.
#[derive(Debug, Clone)]
pub struct Database {
    url: String,
    config: PostgresConfig,
}

/// The stores that all tests of this process share.
#[must_use]
pub fn shared() -> &'static Shared {
    // Values of statics are never dropped; the stores end with the process all the same, see `process`.
    static SHARED: Shared = Shared {
        postgres: OnceCell::const_new(),
        kafka: OnceCell::const_new(),
        elasticsearch: OnceCell::const_new(),
        redis: OnceCell::const_new(),
    };
    &SHARED
}

impl Shared {
    /// Starts all four at the same time, for tests that need all: one after the other takes twice as long.
    pub async fn start(&self) -> Result<(), Error> {
        tokio::try_join!(self.postgres(), self.kafka(), self.elasticsearch(), self.redis()).map(drop)
    }

    /// PostgreSQL without `fsync`, see [`Durability`].
    pub async fn postgres(&self) -> Result<&Postgres, Error> {
        self.postgres
            .get_or_try_init(|| async {
                let server = Postgres::start_with(Durability::Process).await?;
                postgres::migrate(&config(&server.url_of(TEMPLATE))?.options).await?;
                Ok(server)
            })
            .await
    }

    pub async fn kafka(&self) -> Result<&Kafka, Error> {
        self.kafka.get_or_try_init(Kafka::start).await
    }

    pub async fn elasticsearch(&self) -> Result<&Elasticsearch, Error> {
        self.elasticsearch.get_or_try_init(Elasticsearch::start).await
    }

    pub async fn redis(&self) -> Result<&Redis, Error> {
        self.redis.get_or_try_init(Redis::start).await
    }

    /// A fresh database with the current schema and no rows.
    pub async fn database(&self) -> Result<Database, Error> {
        let server = self.postgres().await?;
        let name = unique();
        server
            .admin(format!(
                "create database {name} template {TEMPLATE} owner commerce"
            ))
            .await?;
        let url = server.url_of(&name);
        Ok(Database {
            config: config(&url)?,
            url,
        })
    }

    /// Kafka with a topic prefix that is nobody else's. Its topics are still to be created.
    pub async fn kafka_config(&self) -> Result<KafkaConfig, Error> {
        Ok(KafkaConfig::plaintext(
            self.kafka().await?.bootstrap(),
            format!("{}.", unique()),
        ))
    }

    /// Elasticsearch with an alias that is nobody else's. The index is still to be created.
    pub async fn elasticsearch_config(&self) -> Result<ElasticsearchConfig, Error> {
        Ok(ElasticsearchConfig::open(
            self.elasticsearch().await?.url().clone(),
            unique(),
        ))
    }

    /// Redis with a key prefix that is nobody else's.
    pub async fn redis_config(&self) -> Result<RedisConfig, Error> {
        let url = self.redis().await?.url();
        let config = RedisConfig::new(&SecretString::from(url.as_str()), format!("{}:", unique()));
        config.ok_or_else(|| Error::Address(format!("{url} is no Redis URL")))
    }
}

impl Database {
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What a service is configured with.
    #[must_use]
    pub fn config(&self) -> PostgresConfig {
        self.config.clone()
    }

    /// A pool for the test's own statements.
    #[must_use]
    pub fn pool(&self) -> PgPool {
        self.config.pool("test")
    }
}

fn config(url: &str) -> Result<PostgresConfig, Error> {
    let options = postgres::parse_url(&SecretString::from(url));
    let options = options.ok_or_else(|| Error::Address(format!("{url} is no PostgreSQL URL")))?;
    Ok(PostgresConfig {
        options,
        pool_size: 10,
    })
}

/// A name that no other test of this process gets; the stores are this process's own.
fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
