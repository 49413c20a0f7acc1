//! `spec.redis`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{SecretKeyRef, TlsSpec, UriSecretRef};

/// The cache of searches and of answers to repeated requests.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.secretRef) != has(self.host)")
        .message("redis needs exactly one of secretRef, for a Secret with a URI, and host, for one with a password: set one, and remove the other")
        .field_path(".secretRef"),
    validation = Rule::new("self.port == 6379 || has(self.host)")
        .message("redis.port is the port of redis.host: set redis.host, or put the port into the URI of redis.secretRef and remove redis.port")
        .field_path(".port"),
    validation = Rule::new("!has(self.auth) || has(self.host)")
        .message("redis.auth is the login at redis.host: set redis.host, or put user name and password into the URI of redis.secretRef and remove redis.auth")
        .field_path(".auth"),
    validation = Rule::new("has(self.keyPrefix) == has(oldSelf.keyPrefix) && (!has(self.keyPrefix) || self.keyPrefix == oldSelf.keyPrefix)")
        .message("redis.keyPrefix can't be changed: during the rollout, replicas with the old prefix would answer from a cache that nobody invalidates; put the old value back, or make a new pipeline")
        .field_path(".keyPrefix")
)]
pub struct RedisSpec {
    /// Secret with a `redis://` or `rediss://` URI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<UriSecretRef>,

    /// Where Redis is, for a Secret that holds only a password, such as Bitnami's: `cache-redis-master`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9.-]+$')")
        .message("redis.host is a host name or an address without a port, for example cache-redis-master: put the port into redis.port"))]
    pub host: Option<String>,

    /// Port of `host`.
    #[serde(default = "port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// How the services log in at `host`. Absent: no login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<RedisAuth>,

    /// Encrypts the connections and verifies the server, whatever the URI says. An empty object trusts the public certificate
    /// authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,

    /// What every key starts with; `<namespace>:<name>:` if absent, so that pipelines can share a server. It can't be
    /// changed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9:._/{}-]+$')")
        .message("redis.keyPrefix is letters, digits and any of : . _ / { } -, for example shop:orders:"))]
    pub key_prefix: Option<String>,

    /// How long the answer to a request with an idempotency key is kept in the cache. The database remembers the key for as
    /// long as the order exists; this only makes repeats fast.
    #[serde(default = "idempotency_ttl")]
    #[schemars(length(max = 20))]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]{1,9}(ms|s|m|h))+$')")
            .message("redis.idempotencyTtl is a duration such as 30m or 24h: use the units ms, s, m and h"),
        validation = Rule::new("!self.matches('^([0-9]{1,9}(ms|s|m|h))+$') || (duration(self) >= duration('1m') && duration(self) <= duration('720h'))")
            .message("redis.idempotencyTtl must be between 1m and 720h (30 days)")
    )]
    pub idempotency_ttl: String,

    /// How long a search answer may be served from the cache when nothing invalidates it.
    #[serde(default = "search_cache_ttl")]
    #[schemars(length(max = 20))]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]{1,9}(ms|s|m|h))+$')")
            .message("redis.searchCacheTtl is a duration such as 30s: use the units ms, s, m and h"),
        validation = Rule::new("!self.matches('^([0-9]{1,9}(ms|s|m|h))+$') || (duration(self) >= duration('1s') && duration(self) <= duration('1h'))")
            .message("redis.searchCacheTtl must be between 1s and 1h")
    )]
    pub search_cache_ttl: String,

    /// Where Elasticsearch fails, searches are answered from the cache with answers up to this age, though orders may have
    /// changed since; `0s` for never. Such answers say `X-Cache: STALE`.
    #[serde(default = "search_stale_if_error")]
    #[schemars(length(max = 20))]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]{1,9}(ms|s|m|h))+$')")
            .message("redis.searchStaleIfError is a duration such as 5m, or 0s for never: use the units ms, s, m and h"),
        validation = Rule::new("!self.matches('^([0-9]{1,9}(ms|s|m|h))+$') || duration(self) <= duration('24h')")
            .message("redis.searchStaleIfError must be at most 24h")
    )]
    pub search_stale_if_error: String,
}

/// How the services log in to Redis.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisAuth {
    /// User name of Redis's access control lists; `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub username: Option<String>,

    /// Password. Bitnami's chart writes it to `<release>-redis`, key `redis-password`.
    pub password_secret_ref: SecretKeyRef,
}

fn port() -> i32 {
    6379
}

fn idempotency_ttl() -> String {
    "24h".into()
}

fn search_cache_ttl() -> String {
    "30s".into()
}

fn search_stale_if_error() -> String {
    "5m".into()
}
