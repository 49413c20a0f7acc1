//! What can be configured, parsed once.

use std::{net::SocketAddr, time::Duration};

use commerce_core::{
    admin,
    config::{ConfigError, Env},
    elasticsearch::ElasticsearchConfig,
    kafka::KafkaConfig,
    redis::RedisConfig,
    telemetry::LogConfig,
    trace::TraceConfig,
};

const MIB: usize = 1024 * 1024;

/// The configuration of an indexer.
#[derive(Debug, Clone)]
pub struct Config {
    pub log: LogConfig,
    pub admin_addr: SocketAddr,
    pub kafka: KafkaConfig,
    /// The consumer group; indexers of one group share the partitions.
    pub group_id: String,
    pub elasticsearch: ElasticsearchConfig,
    pub redis: RedisConfig,
    pub bulk: BulkLimits,
    pub traces: TraceConfig,
}

/// When a bulk request is cut: at whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkLimits {
    pub max_documents: usize,
    /// Size of the request's body; one event that is larger makes a bulk of its own.
    pub max_bytes: usize,
    /// How long the first event of a bulk waits for more.
    pub max_delay: Duration,
}

impl Config {
    /// Reads the variables of the indexer and of the stores it uses.
    pub fn from_env(mut env: Env) -> Result<Self, ConfigError> {
        let log = LogConfig::from_env(&mut env);
        let admin_addr = admin::address_from_env(&mut env);
        let kafka = KafkaConfig::from_env(&mut env);
        let group_id = group_id(&mut env);
        let elasticsearch = ElasticsearchConfig::from_env(&mut env);
        let redis = RedisConfig::from_env(&mut env);
        let bulk = BulkLimits::from_env(&mut env);
        let traces = TraceConfig::from_env(&mut env, "commerce-indexer");
        env.finish(|| {
            Some(Self {
                log: log?,
                admin_addr: admin_addr?,
                kafka: kafka?,
                group_id,
                elasticsearch: elasticsearch?,
                redis: redis?,
                bulk: bulk?,
                traces: traces?,
            })
        })
    }
}

/// The consumer group of the indexers.
pub(crate) fn group_id(env: &mut Env) -> String {
    env.optional_text("KAFKA_GROUP_ID")
        .unwrap_or_else(|| "commerce-indexer".to_owned())
}

impl BulkLimits {
    fn from_env(env: &mut Env) -> Option<Self> {
        let max_documents = env.number("INDEXER_BULK_MAX_DOCUMENTS", 5000, 1, 100_000);
        // Elasticsearch takes requests of 100 MiB at most.
        let max_bytes = env.number("INDEXER_BULK_MAX_BYTES", 5 * MIB, 1024, 90 * MIB);
        let max_delay = env.duration("INDEXER_BULK_MAX_DELAY", Duration::from_millis(50));
        Some(Self {
            max_documents: max_documents?,
            max_bytes: max_bytes?,
            max_delay: max_delay?,
        })
    }
}
