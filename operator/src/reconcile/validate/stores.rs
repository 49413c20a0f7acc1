//! The four stores: how the operator itself reaches them (`connect`), and what the pods get to know of them.

use ::redis::ConnectionInfo;
use commerce_core::{
    elasticsearch::ElasticsearchConfig,
    index::IndexSpec,
    kafka::{KafkaConfig, Sasl},
    postgres::{parse_url, with_tls},
    redis::{self, RedisConfig},
    topics::TopicSpec,
};
use secrecy::ExposeSecret as _;
use sqlx::postgres::PgConnectOptions;
use url::Url;

use super::{
    Problem, SecretKey, Secrets, duration, duration_or_zero, hosts, positive,
    tls::{self, Certificates},
};
use crate::crd::{ElasticsearchSpec, KafkaSpec, Migrations, PostgresSpec, RedisSpec, UriSecretRef};

/// `spec.postgres`.
#[derive(Clone, Debug)]
pub struct Postgres {
    pub connect: PgConnectOptions,
    /// `tls` is there.
    pub encrypted: bool,
    pub files: Vec<SecretKey>,
    /// Which of `files` is which.
    pub uri: SecretKey,
    pub certificates: Certificates,
    pub pool_size: u32,
    pub migrations: Migrations,
    pub outbox_retention: String,
}

/// `spec.kafka`.
#[derive(Clone, Debug)]
pub struct Kafka {
    pub connect: KafkaConfig,
    /// As the spec spells them.
    pub bootstrap_servers: String,
    pub files: Vec<SecretKey>,
    /// Which of `files` is which.
    pub certificates: Certificates,
    pub password: Option<SecretKey>,
    pub topics: TopicSpec,
}

/// `spec.elasticsearch`.
#[derive(Clone, Debug)]
pub struct Elasticsearch {
    pub connect: ElasticsearchConfig,
    /// As the spec spells it.
    pub url: String,
    pub files: Vec<SecretKey>,
    /// Which of `files` is which.
    pub password: Option<SecretKey>,
    pub certificates: Certificates,
    pub index: IndexSpec,
}

/// `spec.redis`.
#[derive(Clone, Debug)]
pub struct Redis {
    pub connect: RedisConfig,
    /// `tls` is there.
    pub encrypted: bool,
    pub files: Vec<SecretKey>,
    pub server: RedisServer,
    /// Which of `files` is which.
    pub certificates: Certificates,
    pub idempotency_ttl: String,
    pub search_cache_ttl: String,
    pub search_stale_if_error: String,
}

/// What says where Redis is.
#[derive(Clone, Debug)]
pub enum RedisServer {
    Uri(SecretKey),
    /// As the spec spells it.
    Host {
        host: String,
        port: u16,
        username: Option<String>,
        password: Option<SecretKey>,
    },
}

/// Checks `spec.postgres`.
pub fn postgres(spec: &PostgresSpec, namespace: &str, secrets: &Secrets) -> Result<Postgres, Problem> {
    let (uri, connect) = database(spec, namespace, secrets)?;
    let pool_size = positive("postgres.poolSize", spec.pool_size)?;
    let (encryption, certificates) = tls::optional(spec.tls.as_ref(), &tls::POSTGRES, secrets)?;
    Ok(Postgres {
        connect: match &encryption {
            Some(tls) => with_tls(connect, tls),
            None => connect,
        },
        encrypted: encryption.is_some(),
        files: [uri.clone()].into_iter().chain(certificates.files()).collect(),
        uri,
        certificates,
        pool_size,
        migrations: spec.migrations,
        outbox_retention: duration("postgres.outboxRetention", &spec.outbox_retention)?,
    })
}

/// Where the database is, which needs no other Secret than the one with the URI.
pub fn database(
    spec: &PostgresSpec,
    namespace: &str,
    secrets: &Secrets,
) -> Result<(SecretKey, PgConnectOptions), Problem> {
    let at = uri_key(&spec.secret_ref, "postgres.secretRef");
    let accepted = "a PostgreSQL URI such as postgresql://user:password@host:5432/database";
    match parse_url(&secrets.text(&at)?) {
        Some(options) => Ok((at, hosts::of_postgres(options, namespace))),
        None => Err(Problem::Secret { at, accepted }),
    }
}

/// Checks `spec.kafka`.
pub fn kafka(spec: &KafkaSpec, namespace: &str, secrets: &Secrets) -> Result<Kafka, Problem> {
    let (encryption, certificates) = tls::optional(spec.tls.as_ref(), &tls::KAFKA, secrets)?;
    let sasl = spec.sasl.as_ref();
    let password = sasl.map(|sasl| {
        key(
            &sasl.password_secret_ref.name,
            &sasl.password_secret_ref.key,
            "kafka.sasl.passwordSecretRef",
        )
    });
    let connect = KafkaConfig {
        bootstrap_servers: hosts::of_servers(&spec.bootstrap_servers, namespace),
        topic_prefix: spec.topics.prefix.clone(),
        tls: encryption,
        sasl: match (sasl, &password) {
            (Some(sasl), Some(password)) => Some(Sasl {
                mechanism: sasl.mechanism.as_str().to_owned(),
                username: sasl.username.clone(),
                password: secrets.text(password)?,
            }),
            _ => None,
        },
    };
    positive("kafka.topics.partitions", spec.topics.partitions)?;
    positive("kafka.topics.replicationFactor", spec.topics.replication_factor)?;
    let topics = TopicSpec {
        partitions: spec.topics.partitions,
        replication_factor: spec.topics.replication_factor,
        config: spec.topics.config.clone(),
    };
    let files = certificates.files().chain(password.clone()).collect();
    Ok(Kafka {
        connect,
        bootstrap_servers: spec.bootstrap_servers.clone(),
        files,
        certificates,
        password,
        topics,
    })
}

/// Checks `spec.elasticsearch`.
pub fn elasticsearch(
    spec: &ElasticsearchSpec,
    namespace: &str,
    secrets: &Secrets,
) -> Result<Elasticsearch, Problem> {
    let accepted = "an http:// or https:// URL with a host and without credentials";
    let url = Url::parse(&spec.url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty())
        // The value may hold credentials, so the message does not repeat it.
        .ok_or(Problem::Field {
            field: "elasticsearch.url",
            value: "not usable".to_owned(),
            accepted,
        })?;
    let auth = spec.auth.as_ref();
    let password = auth.map(|auth| {
        key(
            &auth.password_secret_ref.name,
            &auth.password_secret_ref.key,
            "elasticsearch.auth.passwordSecretRef",
        )
    });
    let (encryption, certificates) = tls::optional(spec.tls.as_ref(), &tls::ELASTICSEARCH, secrets)?;
    let connect = ElasticsearchConfig {
        url: hosts::of_url(url, namespace),
        username: auth.map(|auth| auth.username.clone()),
        password: password.as_ref().map(|at| secrets.text(at)).transpose()?,
        tls: encryption,
        index: spec.index.name.clone(),
    };
    let index = index(&spec.index)?;
    let files = password.clone().into_iter().chain(certificates.files()).collect();
    Ok(Elasticsearch {
        connect,
        url: spec.url.clone(),
        files,
        password,
        certificates,
        index,
    })
}

/// Settings that have a field of their own.
const RESERVED: [&str; 3] = ["number_of_shards", "number_of_replicas", "refresh_interval"];

fn index(spec: &crate::crd::IndexSpec) -> Result<IndexSpec, Problem> {
    let settings = spec.settings.clone().unwrap_or_default();
    for name in settings.keys() {
        if name == "index" || name.starts_with("index.") || RESERVED.contains(&name.as_str()) {
            let accepted = "index settings without the prefix `index.`; shards, replicas and refreshInterval have fields of their own";
            return Err(Problem::Field {
                field: "elasticsearch.index.settings",
                value: name.clone(),
                accepted,
            });
        }
    }
    let shards = positive("elasticsearch.index.shards", spec.shards)?;
    let replicas = u32::try_from(spec.replicas).map_err(|_| Problem::Field {
        field: "elasticsearch.index.replicas",
        value: spec.replicas.to_string(),
        accepted: "a whole number from 0",
    })?;
    Ok(IndexSpec {
        name: spec.name.clone(),
        shards,
        replicas,
        refresh_interval: spec.refresh_interval.clone(),
        properties: spec
            .mappings
            .as_ref()
            .map(|mappings| mappings.properties.clone())
            .unwrap_or_default(),
        settings,
    })
}

/// Checks `spec.redis`.
pub fn redis(
    spec: &RedisSpec,
    namespace: &str,
    default_prefix: &str,
    secrets: &Secrets,
) -> Result<Redis, Problem> {
    let (encryption, certificates) = tls::optional(spec.tls.as_ref(), &tls::REDIS, secrets)?;
    let prefix = spec.key_prefix.as_deref().unwrap_or(default_prefix);
    let (server, info) = match (&spec.secret_ref, &spec.host) {
        (Some(reference), None) => redis_uri(reference, namespace, secrets)?,
        (None, Some(host)) => redis_host(spec, host, namespace, secrets)?,
        _ => {
            return Err(Problem::Field {
                field: "redis",
                value: "without an address, or with two".to_owned(),
                accepted: "exactly one of secretRef and host",
            });
        }
    };
    let connect = RedisConfig::with_tls(info, encryption.as_ref(), prefix).ok_or(Problem::Field {
        field: "redis",
        value: "not usable".to_owned(),
        accepted: "the address of a server",
    })?;
    let login = match &server {
        RedisServer::Uri(at) => Some(at.clone()),
        RedisServer::Host { password, .. } => password.clone(),
    };
    Ok(Redis {
        connect,
        encrypted: encryption.is_some(),
        files: login.into_iter().chain(certificates.files()).collect(),
        server,
        certificates,
        idempotency_ttl: duration("redis.idempotencyTtl", &spec.idempotency_ttl)?,
        search_cache_ttl: duration("redis.searchCacheTtl", &spec.search_cache_ttl)?,
        search_stale_if_error: duration_or_zero("redis.searchStaleIfError", &spec.search_stale_if_error)?,
    })
}

fn redis_uri(
    reference: &UriSecretRef,
    namespace: &str,
    secrets: &Secrets,
) -> Result<(RedisServer, ConnectionInfo), Problem> {
    let at = uri_key(reference, "redis.secretRef");
    let uri = secrets.text(&at)?;
    let accepted = "a Redis URI such as redis://:password@host:6379/0 (rediss:// for TLS)";
    let known = uri.expose_secret().starts_with("redis://") || uri.expose_secret().starts_with("rediss://");
    let info = known.then(|| hosts::of_redis(&uri, namespace)).flatten();
    let info = info.ok_or_else(|| Problem::Secret {
        at: at.clone(),
        accepted,
    })?;
    Ok((RedisServer::Uri(at), info))
}

fn redis_host(
    spec: &RedisSpec,
    host: &str,
    namespace: &str,
    secrets: &Secrets,
) -> Result<(RedisServer, ConnectionInfo), Problem> {
    let problem = |field, value: String, accepted| Problem::Field {
        field,
        value,
        accepted,
    };
    let port = u16::try_from(spec.port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| problem("redis.port", spec.port.to_string(), "a port from 1 to 65535"))?;
    let auth = spec.auth.as_ref();
    let password = auth.map(|auth| {
        let reference = &auth.password_secret_ref;
        key(&reference.name, &reference.key, "redis.auth.passwordSecretRef")
    });
    let username = auth.and_then(|auth| auth.username.clone());
    let text = password.as_ref().map(|at| secrets.text(at)).transpose()?;
    let complete = hosts::complete(host, namespace);
    let info = redis::info(complete, port, 0, username.as_deref(), text.as_ref())
        .ok_or_else(|| problem("redis.host", host.to_owned(), "a host name or an address"))?;
    let server = RedisServer::Host {
        host: host.to_owned(),
        port,
        username,
        password,
    };
    Ok((server, info))
}

fn uri_key(reference: &UriSecretRef, field: &'static str) -> SecretKey {
    key(&reference.name, &reference.key, field)
}

pub(super) fn key(secret: &str, key: &str, field: &'static str) -> SecretKey {
    SecretKey {
        secret: secret.to_owned(),
        key: key.to_owned(),
        field,
    }
}
