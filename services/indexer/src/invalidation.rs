//! Makes cached search answers out of date. Redis away: remembers whose and tries again; nobody waits for it.

use std::time::Duration;

use commerce_core::{admin::Gate, redis::RedisConfig, search_cache};
use hashbrown::HashSet;
use redis::{RedisResult, aio::ConnectionManager};
use tokio::time::Instant;

use crate::{backoff::Backoff, metrics::Metrics};

const TIMEOUT: Duration = Duration::from_millis(500);
/// Far from what Redis can do within the time-out.
const USERS_AT_ONCE: usize = 5_000;
/// So many users are remembered while Redis is away. Answers about further ones are wrong until their TTL is over.
const MOST_USERS: usize = 100_000;

pub(crate) struct Invalidation {
    connection: ConnectionManager,
    key_prefix: String,
    pending: HashSet<Box<str>>,
    backoff: Backoff,
    not_before: Option<Instant>,
    redis: Gate,
    metrics: Metrics,
}

impl Invalidation {
    pub(crate) fn new(config: &RedisConfig, redis: Gate, metrics: Metrics) -> RedisResult<Self> {
        Ok(Self {
            connection: config.connection(TIMEOUT)?,
            key_prefix: config.key_prefix.clone(),
            pending: HashSet::new(),
            backoff: Backoff::new(),
            not_before: None,
            redis,
            metrics,
        })
    }

    /// Finds out whether Redis answers.
    pub(crate) async fn probe(&mut self) {
        let answer = redis::cmd("PING").query_async::<()>(&mut self.connection).await;
        self.redis.report(&answer);
    }

    /// Orders of these users have changed, and searches show it.
    pub(crate) async fn invalidate(&mut self, users: HashSet<Box<str>>) {
        if self.pending.is_empty() {
            self.pending = users;
        } else if self.pending.len() < MOST_USERS {
            self.pending.extend(users);
        }
        self.retry_when_due().await;
    }

    /// When to call [`Self::retry_when_due`], if there is something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.not_before.filter(|_| !self.pending.is_empty())
    }

    pub(crate) async fn retry_when_due(&mut self) {
        let now = Instant::now();
        if self.pending.is_empty() || self.not_before.is_some_and(|at| now < at) {
            return;
        }
        while !self.pending.is_empty() {
            let users: Vec<_> = self.pending.iter().take(USERS_AT_ONCE).cloned().collect();
            let names = users.iter().map(AsRef::as_ref);
            let result = search_cache::invalidate(&mut self.connection, &self.key_prefix, names).await;
            self.redis.report(&result);
            if result.is_err() {
                self.metrics.invalidation_failed();
                self.not_before = Some(Instant::now() + self.backoff.next_delay());
                return;
            }
            for user in &users {
                self.pending.remove(user);
            }
        }
        self.not_before = None;
        self.backoff.reset();
    }
}
