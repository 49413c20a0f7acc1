//! The relay's configuration.

use std::{net::SocketAddr, time::Duration};

use commerce_core::{
    admin,
    config::{ConfigError, Env},
    kafka::KafkaConfig,
    postgres::PostgresConfig,
    telemetry::LogConfig,
    trace::TraceConfig,
};

/// How the relay runs.
#[derive(Debug, Clone)]
pub struct Config {
    pub admin_addr: SocketAddr,
    pub postgres: PostgresConfig,
    pub kafka: KafkaConfig,
    /// How many events may be under way to Kafka at a time.
    pub batch_size: usize,
    /// The longest time between two looks into the outbox when nobody wakes the relay.
    pub poll_interval: Duration,
    pub traces: TraceConfig,
}

impl Config {
    /// Reads `RELAY_BATCH_SIZE`, `RELAY_POLL_INTERVAL` and what all services share.
    pub fn from_env(mut env: Env) -> Result<(Self, LogConfig), ConfigError> {
        let logs = LogConfig::from_env(&mut env);
        let admin_addr = admin::address_from_env(&mut env);
        let postgres = PostgresConfig::from_env(&mut env);
        let kafka = KafkaConfig::from_env(&mut env);
        let batch_size = env.number("RELAY_BATCH_SIZE", 5_000, 1, 100_000);
        let poll_interval = env.duration("RELAY_POLL_INTERVAL", Duration::from_millis(100));
        let traces = TraceConfig::from_env(&mut env, "commerce-relay");
        env.finish(|| {
            let config = Self {
                admin_addr: admin_addr?,
                postgres: postgres?,
                kafka: kafka?,
                batch_size: batch_size?,
                poll_interval: poll_interval?,
                traces: traces?,
            };
            Some((config, logs?))
        })
    }
}
