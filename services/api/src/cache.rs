//! Redis, as the API uses it: to answer faster, never to answer at all.
//!
//! A call takes a fixed time at most. After one that failed, Redis is left alone for a while (see [`crate::breaker`]), so
//! that a Redis that is away or slow costs one request per pause its budget and the others nothing.

use std::time::Duration;

use commerce_core::redis::RedisConfig;
use prometheus_client::metrics::gauge::Gauge;
use redis::{ErrorKind, FromRedisValue, Pipeline, aio::ConnectionManager};

use crate::breaker::Breaker;

/// A handle on Redis.
#[derive(Debug)]
pub struct Cache {
    connection: Connection,
    key_prefix: String,
    budget: Duration,
    breaker: Breaker,
}

struct Connection(ConnectionManager);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Cache {
    /// Connects when first used. No call takes longer than `budget`. `breaker` shows whether Redis is used: 0 it is, 1 one
    /// request tries it, 2 it is left alone.
    pub fn new(config: &RedisConfig, budget: Duration, breaker: Gauge) -> redis::RedisResult<Self> {
        Ok(Self {
            connection: Connection(config.connection(budget)?),
            key_prefix: config.key_prefix.clone(),
            budget,
            breaker: Breaker::new(breaker),
        })
    }

    /// What every key starts with.
    pub fn prefix(&self) -> &str {
        &self.key_prefix
    }

    /// What Redis answers; `None` where it does not within the budget, or refuses.
    pub async fn ask<T: FromRedisValue>(&self, commands: &Pipeline) -> Option<T> {
        let pass = self.breaker.admit()?;
        let mut connection = self.connection.0.clone();
        let failure = match tokio::time::timeout(self.budget, commands.query_async(&mut connection)).await {
            Ok(Ok(answer)) => {
                self.breaker.succeeded();
                return Some(answer);
            }
            Ok(Err(error)) if is_reply(&error) => {
                tracing::debug!(%error, "Redis refused; going on without it");
                self.breaker.succeeded();
                return None;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} ms", self.budget.as_millis()),
        };
        if self.breaker.failed(pass) {
            tracing::warn!(error = failure, "Redis is away or slow; going on without it");
        }
        None
    }
}

/// Redis itself has said so (out of memory, still loading, …): that took no time, and other calls may do better.
fn is_reply(error: &redis::RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}
