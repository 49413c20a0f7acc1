//! Redis, as the API uses it: to answer faster, never to answer at all.
//!
//! A call takes a fixed time at most. After one that failed, Redis is left alone for [`PAUSE`], so that a Redis that is away
//! or slow costs one request per pause its budget and the others nothing.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use commerce_core::redis::RedisConfig;
use redis::{FromRedisValue, Pipeline, aio::ConnectionManager};

const PAUSE: Duration = Duration::from_secs(1);

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
    /// Connects when first used. No call takes longer than `budget`.
    pub fn new(config: &RedisConfig, budget: Duration) -> redis::RedisResult<Self> {
        Ok(Self {
            connection: Connection(config.connection(budget)?),
            key_prefix: config.key_prefix.clone(),
            budget,
            breaker: Breaker::new(),
        })
    }

    /// What every key starts with.
    pub fn prefix(&self) -> &str {
        &self.key_prefix
    }

    /// What Redis answers; `None` where it does not within the budget.
    pub async fn ask<T: FromRedisValue>(&self, commands: &Pipeline) -> Option<T> {
        if !self.breaker.admits() {
            return None;
        }
        let mut connection = self.connection.0.clone();
        match tokio::time::timeout(self.budget, commands.query_async(&mut connection)).await {
            Ok(Ok(answer)) => {
                self.breaker.closed();
                Some(answer)
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "Redis refused; going on without it");
                self.breaker.opened();
                None
            }
            Err(_) => {
                tracing::debug!("Redis took too long; going on without it");
                self.breaker.opened();
                None
            }
        }
    }
}

/// Closed: calls pass. Open: none passes until the pause is over; then one does, and what becomes of it decides.
#[derive(Debug)]
struct Breaker {
    created: Instant,
    /// Milliseconds since `created` at which the pause ends; 0 when closed.
    open_until: AtomicU64,
}

impl Breaker {
    fn new() -> Self {
        Self {
            created: Instant::now(),
            open_until: AtomicU64::new(0),
        }
    }

    fn admits(&self) -> bool {
        let until = self.open_until.load(Ordering::Relaxed);
        let now = self.milliseconds(Duration::ZERO);
        let next = self.milliseconds(PAUSE);
        until == 0
            || (now >= until
                && self
                    .open_until
                    .compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok())
    }

    fn closed(&self) {
        self.open_until.store(0, Ordering::Relaxed);
    }

    fn opened(&self) {
        self.open_until.store(self.milliseconds(PAUSE), Ordering::Relaxed);
    }

    fn milliseconds(&self, later: Duration) -> u64 {
        u64::try_from((self.created.elapsed() + later).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_breaker_admits_one_call_after_each_pause() {
        let breaker = Breaker::new();
        assert!(breaker.admits() && breaker.admits());
        breaker.opened();
        assert!(!breaker.admits());
        breaker.open_until.store(1, Ordering::Relaxed);
        while breaker.milliseconds(Duration::ZERO) < 1 {}
        assert!(breaker.admits());
        assert!(!breaker.admits(), "the first one's result is awaited");
        breaker.closed();
        assert!(breaker.admits());
    }
}
