//! What the API is configured with.

use std::{net::SocketAddr, time::Duration};

use commerce_core::{
    admin,
    config::{ConfigError, Env},
    elasticsearch::ElasticsearchConfig,
    postgres::PostgresConfig,
    redis::RedisConfig,
    trace::TraceConfig,
};

use crate::access::AccessConfig;

/// Cached search answers must be gone before the generations they belong to, see [`commerce_core::search_cache`].
const LONGEST_SEARCH_CACHE_TTL: Duration = Duration::from_hours(1);
const LONGEST_SEARCH_STALE_IF_ERROR: Duration = Duration::from_hours(24);
/// What a call of Redis may cost a request.
const CACHE_BUDGET: Duration = Duration::from_millis(50);

/// Everything `api serve` needs.
#[derive(Debug, Clone)]
pub struct Config {
    pub http_address: SocketAddr,
    pub admin_address: SocketAddr,
    pub access: AccessConfig,
    pub postgres: PostgresConfig,
    pub elasticsearch: ElasticsearchConfig,
    pub redis: RedisConfig,
    pub group_commit: GroupCommit,
    /// How long Redis remembers which order a key led to. PostgreSQL knows for as long as the order exists.
    pub idempotency_ttl: Duration,
    pub search_cache: SearchCache,
    pub traces: TraceConfig,
    /// How long to wait for Redis before going on without it; 50 ms except in tests.
    pub cache_budget: Duration,
}

/// How search answers are cached; see `search` for what each is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchCache {
    /// An answer that nothing invalidates is served for so long at most.
    pub ttl: Duration,
    /// Where Elasticsearch fails, an answer that is out of date is served up to this age; zero: never.
    pub stale_if_error: Duration,
    /// How long an answer is served without asking Redis whether it is still current.
    pub trust: Duration,
    /// How long one replica waits for another that asks Elasticsearch the same.
    pub patience: Duration,
}

impl Default for SearchCache {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(30),
            stale_if_error: Duration::from_mins(5),
            trust: Duration::from_millis(100),
            patience: Duration::from_millis(300),
        }
    }
}

impl SearchCache {
    /// Only the first two are variables; the others differ in tests only.
    fn from_env(env: &mut Env) -> Option<Self> {
        let default = Self::default();
        let ttl = env.duration("SEARCH_CACHE_TTL", default.ttl);
        if ttl.is_some_and(|ttl| ttl > LONGEST_SEARCH_CACHE_TTL) {
            env.problem("SEARCH_CACHE_TTL is longer than 1h; it takes a duration of at most that");
        }
        let stale_if_error = env.parsed(
            "SEARCH_STALE_IF_ERROR",
            default.stale_if_error,
            "a duration of at most 24h, such as 5m, or 0s for never",
            |value| {
                humantime::parse_duration(value)
                    .ok()
                    .filter(|age| *age <= LONGEST_SEARCH_STALE_IF_ERROR)
            },
        );
        Some(Self {
            ttl: ttl?,
            stale_if_error: stale_if_error?,
            ..default
        })
    }
}

/// How orders that come at the same time share transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupCommit {
    /// Orders that share one at most; 1 gives each its own.
    pub max_orders: usize,
    /// Transactions under way at once, each on a connection of its own; reads have what is left of the pool size.
    pub connections: u32,
    /// Orders that wait at most; further ones are refused with 503.
    pub queue: usize,
}

impl Default for GroupCommit {
    fn default() -> Self {
        Self {
            max_orders: 256,
            connections: 2,
            queue: 4096,
        }
    }
}

impl GroupCommit {
    /// `pool_size` is how many connections there may be in all.
    fn from_env(env: &mut Env, pool_size: Option<u32>) -> Option<Self> {
        let default = Self::default();
        let others = pool_size.unwrap_or(u32::MAX) - 1;
        if others == 0 {
            env.problem(
                "DATABASE_POOL_SIZE is 1; it takes at least 2: one connection places orders, another reads",
            );
        }
        let most = others.clamp(1, 1_000);
        let max_orders = env.number("GROUP_COMMIT_MAX_ORDERS", default.max_orders, 1, 10_000);
        let connections = env.number("GROUP_COMMIT_CONNECTIONS", default.connections.min(most), 1, most);
        let queue = env.number("GROUP_COMMIT_QUEUE", default.queue, 1, 1_000_000);
        Some(Self {
            max_orders: max_orders?,
            connections: connections?,
            queue: queue?,
        })
    }
}

impl Config {
    /// PostgreSQL for everything but placing orders: what group commit leaves of the connections.
    #[must_use]
    pub fn readers(&self) -> PostgresConfig {
        let taken = self.group_commit.connections;
        PostgresConfig {
            pool_size: self.postgres.pool_size.saturating_sub(taken).max(1),
            ..self.postgres.clone()
        }
    }

    /// Reads the variables; the error names all that are wrong.
    pub fn from_env(mut env: Env) -> Result<Self, ConfigError> {
        let default = SocketAddr::from(([0, 0, 0, 0], 8080));
        let accepted = "address:port such as 0.0.0.0:8080";
        let http_address = env.parsed("HTTP_ADDR", default, accepted, |value| value.parse().ok());
        let admin_address = admin::address_from_env(&mut env);
        let access = AccessConfig::from_env(&mut env);
        let postgres = PostgresConfig::from_env(&mut env);
        let elasticsearch = ElasticsearchConfig::from_env(&mut env);
        let redis = RedisConfig::from_env(&mut env);
        let group_commit =
            GroupCommit::from_env(&mut env, postgres.as_ref().map(|postgres| postgres.pool_size));
        let idempotency_ttl = env.duration("IDEMPOTENCY_TTL", Duration::from_hours(24));
        let search_cache = SearchCache::from_env(&mut env);
        let traces = TraceConfig::from_env(&mut env, "commerce-api");
        env.finish(|| {
            Some(Self {
                http_address: http_address?,
                admin_address: admin_address?,
                access: access?,
                postgres: postgres?,
                elasticsearch: elasticsearch?,
                redis: redis?,
                group_commit: group_commit?,
                idempotency_ttl: idempotency_ttl?,
                search_cache: search_cache?,
                traces: traces?,
                cache_budget: CACHE_BUDGET,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_that_is_missing_or_wrong_is_named() {
        let env = Env::from_pairs([
            ("HTTP_ADDR", "8080"),
            ("SEARCH_CACHE_TTL", "2h"),
            ("SEARCH_STALE_IF_ERROR", "25h"),
        ]);
        let error = Config::from_env(env).unwrap_err().to_string();
        for name in [
            "HTTP_ADDR",
            "DATABASE_URL",
            "ELASTICSEARCH_URL",
            "REDIS_URL",
            "SEARCH_CACHE_TTL",
            "SEARCH_STALE_IF_ERROR",
        ] {
            assert!(error.contains(name), "{name} is not in {error}");
        }
    }

    #[test]
    fn answers_that_are_out_of_date_can_be_done_without() {
        for (value, seconds) in [("", 300), ("0s", 0), ("1h", 3600)] {
            let mut env = Env::from_pairs([("SEARCH_STALE_IF_ERROR", value)]);
            let found = SearchCache::from_env(&mut env).unwrap().stale_if_error;
            assert_eq!(found, Duration::from_secs(seconds));
        }
    }
}
