//! The stores, and what a pipeline needs in them besides its schema.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::{Context as _, Result};
use commerce_core::{
    elasticsearch::ElasticsearchConfig,
    index::{self, IndexSpec},
    kafka::KafkaConfig,
    testing::{Elasticsearch, Kafka, Postgres, Redis},
    topics::{self, TopicSpec},
};

const INDEX: &str = "orders";

/// The four stores of one pipeline.
#[derive(Debug)]
pub struct Stores {
    postgres: Postgres,
    kafka: Kafka,
    elasticsearch: Elasticsearch,
    redis: Redis,
}

impl Stores {
    /// Starts all of them at the same time.
    pub async fn start() -> Result<Self> {
        let (postgres, kafka, elasticsearch, redis) = tokio::try_join!(
            Postgres::start(),
            Kafka::start(),
            Elasticsearch::start(),
            Redis::start()
        )?;
        Ok(Self {
            postgres,
            kafka,
            elasticsearch,
            redis,
        })
    }

    /// How services are told where the stores are.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("DATABASE_URL", self.postgres.url()),
            ("KAFKA_BOOTSTRAP_SERVERS", self.kafka.bootstrap()),
            ("ELASTICSEARCH_URL", self.elasticsearch.url().to_string()),
            ("ELASTICSEARCH_INDEX", INDEX.to_owned()),
            ("REDIS_URL", self.redis.url()),
        ]
    }

    pub async fn create_topics(&self) -> Result<()> {
        let spec = TopicSpec {
            partitions: 6,
            replication_factor: 1,
            config: BTreeMap::new(),
        };
        topics::ensure(&KafkaConfig::plaintext(self.kafka.bootstrap(), ""), &spec)
            .await
            .map(drop)
            .context("creating the topics")
    }

    pub async fn create_index(&self) -> Result<()> {
        let config = ElasticsearchConfig::open(self.elasticsearch.url().clone(), INDEX);
        let client = config.client(Duration::from_secs(30))?;
        index::ensure(&client, &IndexSpec::new(INDEX))
            .await
            .map(drop)
            .context("creating the index")
    }
}

impl fmt::Display for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  PostgreSQL     {}", self.postgres.url())?;
        writeln!(f, "  Kafka          {}", self.kafka.bootstrap())?;
        writeln!(f, "  Elasticsearch  {}", self.elasticsearch.url())?;
        writeln!(f, "  Redis          {}", self.redis.url())
    }
}
