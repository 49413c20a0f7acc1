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

use crate::outbox::Limits;

const OUTBOX_RETENTION: Duration = Duration::from_hours(168);
const MIN_OUTBOX_RETENTION: Duration = Duration::from_hours(1);

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
    /// How long the days of the outbox are kept after they have ended, as long as all their events are published.
    pub outbox_retention: Duration,
    pub traces: TraceConfig,
    /// How much is read at a time; not from the environment.
    pub limits: Limits,
}

impl Config {
    /// Reads `RELAY_BATCH_SIZE`, `RELAY_POLL_INTERVAL`, `OUTBOX_RETENTION` and what all services share.
    pub fn from_env(mut env: Env) -> Result<(Self, LogConfig), ConfigError> {
        let logs = LogConfig::from_env(&mut env);
        let admin_addr = admin::address_from_env(&mut env);
        let postgres = PostgresConfig::from_env(&mut env);
        let kafka = KafkaConfig::from_env(&mut env);
        let batch_size = env.number("RELAY_BATCH_SIZE", 5_000, 1, 100_000);
        let poll_interval = env.duration("RELAY_POLL_INTERVAL", Duration::from_millis(100));
        let outbox_retention = env.duration_from("OUTBOX_RETENTION", OUTBOX_RETENTION, MIN_OUTBOX_RETENTION);
        let traces = TraceConfig::from_env(&mut env, "commerce-relay");
        env.finish(|| {
            let config = Self {
                admin_addr: admin_addr?,
                postgres: postgres?,
                kafka: kafka?,
                batch_size: batch_size?,
                poll_interval: poll_interval?,
                outbox_retention: outbox_retention?,
                traces: traces?,
                limits: Limits::default(),
            };
            Some((config, logs?))
        })
    }
}
