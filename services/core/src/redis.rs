//! How to reach Redis. Redis only makes answers faster: whoever uses it goes on without it.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use secrecy::{ExposeSecret as _, SecretString};

use crate::config::Env;

const ACCEPTED: &str = "a Redis URI such as redis://:password@host:6379/0 (rediss:// for TLS)";

/// Where Redis is, and what every key of this pipeline starts with.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    pub client: redis::Client,
    pub key_prefix: String,
}

impl RedisConfig {
    /// From a URI; `None` where it is not one.
    #[must_use]
    pub fn new(url: &SecretString, key_prefix: impl Into<String>) -> Option<Self> {
        Some(Self {
            client: redis::Client::open(url.expose_secret()).ok()?,
            key_prefix: key_prefix.into(),
        })
    }

    /// Reads `REDIS_URL` (or `REDIS_URL_FILE`) and `REDIS_KEY_PREFIX`.
    pub fn from_env(env: &mut Env) -> Option<Self> {
        let url = env.secret("REDIS_URL", ACCEPTED);
        let key_prefix = env
            .optional_text("REDIS_KEY_PREFIX")
            .unwrap_or_else(|| "commerce:".to_owned());
        let config = Self::new(&url?, key_prefix);
        if config.is_none() {
            // The value is a secret, so the message does not repeat it.
            env.problem(format!("REDIS_URL is not usable; it takes {ACCEPTED}"));
        }
        config
    }

    /// A connection that is made when first used and made anew when it breaks. No call on it takes longer than
    /// `response_timeout`.
    pub fn connection(&self, response_timeout: Duration) -> redis::RedisResult<ConnectionManager> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_millis(500)))
            .set_response_timeout(Some(response_timeout))
            .set_number_of_retries(1);
        ConnectionManager::new_lazy_with_config(self.client.clone(), config)
    }

    /// A key of this pipeline.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.key_prefix)
    }
}
