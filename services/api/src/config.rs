//! What the API is configured with.

use std::{net::SocketAddr, time::Duration};

use commerce_core::{
    admin,
    config::{ConfigError, Env},
    elasticsearch::ElasticsearchConfig,
    postgres::PostgresConfig,
    redis::RedisConfig,
};

/// Cached search answers must be gone before the generations they belong to, see [`commerce_core::search_cache`].
const LONGEST_SEARCH_CACHE_TTL: Duration = Duration::from_hours(1);
/// What a call of Redis may cost a request.
const CACHE_BUDGET: Duration = Duration::from_millis(50);

/// Everything `api serve` needs.
#[derive(Debug, Clone)]
pub struct Config {
    pub http_address: SocketAddr,
    pub admin_address: SocketAddr,
    pub postgres: PostgresConfig,
    pub elasticsearch: ElasticsearchConfig,
    pub redis: RedisConfig,
    /// How long Redis remembers which order a key led to. PostgreSQL knows for as long as the order exists.
    pub idempotency_ttl: Duration,
    /// How long a search answer is cached, at most.
    pub search_cache_ttl: Duration,
    /// How long to wait for Redis before going on without it; 50 ms except in tests.
    pub cache_budget: Duration,
}

impl Config {
    /// Reads the variables; the error names all that are wrong.
    pub fn from_env(mut env: Env) -> Result<Self, ConfigError> {
        let default = SocketAddr::from(([0, 0, 0, 0], 8080));
        let accepted = "address:port such as 0.0.0.0:8080";
        let http_address = env.parsed("HTTP_ADDR", default, accepted, |value| value.parse().ok());
        let admin_address = admin::address_from_env(&mut env);
        let postgres = PostgresConfig::from_env(&mut env);
        let elasticsearch = ElasticsearchConfig::from_env(&mut env);
        let redis = RedisConfig::from_env(&mut env);
        let idempotency_ttl = env.duration("IDEMPOTENCY_TTL", Duration::from_hours(24));
        let search_cache_ttl = env.duration("SEARCH_CACHE_TTL", Duration::from_secs(30));
        if search_cache_ttl.is_some_and(|ttl| ttl > LONGEST_SEARCH_CACHE_TTL) {
            env.problem("SEARCH_CACHE_TTL is longer than 1h; it takes a duration of at most that");
        }
        env.finish(|| {
            Some(Self {
                http_address: http_address?,
                admin_address: admin_address?,
                postgres: postgres?,
                elasticsearch: elasticsearch?,
                redis: redis?,
                idempotency_ttl: idempotency_ttl?,
                search_cache_ttl: search_cache_ttl?,
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
        let env = Env::from_pairs([("HTTP_ADDR", "8080"), ("SEARCH_CACHE_TTL", "2h")]);
        let error = Config::from_env(env).unwrap_err().to_string();
        for name in [
            "HTTP_ADDR",
            "DATABASE_URL",
            "ELASTICSEARCH_URL",
            "REDIS_URL",
            "SEARCH_CACHE_TTL",
        ] {
            assert!(error.contains(name), "{name} is not in {error}");
        }
    }
}
