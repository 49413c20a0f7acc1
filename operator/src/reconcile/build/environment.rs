//! What the services are told of the stores and of their callers: addresses as environment variables, secrets as files that variables name.

use k8s_openapi::api::core::v1::EnvVar;

use super::{
    super::{
        names::Component,
        secrets::SecretKey,
        validate::{
            Access, Elasticsearch, Jwt, JwtKeys, Kafka, Pipeline, Postgres, Redis, RedisServer,
            tls::Certificates,
        },
    },
    child_name,
    pod::{Mount, path, variable},
};

/// Variables and mounted files of a container.
#[derive(Default)]
pub struct Environment<'a> {
    pub variables: Vec<EnvVar>,
    pub mounts: Vec<Mount<'a>>,
}

impl<'a> Environment<'a> {
    /// Adds a variable.
    pub fn set(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.variables.push(variable(name, value.to_string()));
        self
    }

    pub fn postgres(mut self, postgres: &'a Postgres) -> Self {
        if postgres.encrypted {
            self = self.set("DATABASE_TLS", true);
        }
        let uri = &postgres.uri;
        self = self.set("DATABASE_URL_FILE", path("postgres", &uri.key));
        let files = vec![(uri.key.clone(), uri)];
        self.certificates("postgres", "DATABASE", files, &postgres.certificates)
            .set("DATABASE_POOL_SIZE", postgres.pool_size)
    }

    pub fn kafka(mut self, kafka: &'a Kafka) -> Self {
        let connect = &kafka.connect;
        let protocol = match (&connect.tls, &connect.sasl) {
            (None, None) => "PLAINTEXT",
            (Some(_), None) => "SSL",
            (None, Some(_)) => "SASL_PLAINTEXT",
            (Some(_), Some(_)) => "SASL_SSL",
        };
        self = self
            .set("KAFKA_BOOTSTRAP_SERVERS", &kafka.bootstrap_servers)
            .set("KAFKA_TOPIC_PREFIX", &connect.topic_prefix)
            .set("KAFKA_SECURITY_PROTOCOL", protocol);
        if let Some(sasl) = &connect.sasl {
            self = self
                .set("KAFKA_SASL_MECHANISM", &sasl.mechanism)
                .set("KAFKA_SASL_USERNAME", &sasl.username);
        }
        let files = self.password("KAFKA_SASL_PASSWORD_FILE", "kafka", kafka.password.as_ref());
        self.certificates("kafka", "KAFKA", files, &kafka.certificates)
    }

    pub fn elasticsearch(mut self, elasticsearch: &'a Elasticsearch) -> Self {
        self = self
            .set("ELASTICSEARCH_URL", &elasticsearch.url)
            .set("ELASTICSEARCH_INDEX", &elasticsearch.index.name);
        if let Some(username) = &elasticsearch.connect.username {
            self = self.set("ELASTICSEARCH_USERNAME", username);
        }
        let password = elasticsearch.password.as_ref();
        let files = self.password("ELASTICSEARCH_PASSWORD_FILE", "elasticsearch", password);
        self.certificates(
            "elasticsearch",
            "ELASTICSEARCH",
            files,
            &elasticsearch.certificates,
        )
    }

    pub fn redis(mut self, redis: &'a Redis) -> Self {
        if redis.encrypted {
            self = self.set("REDIS_TLS", true);
        }
        let files = match &redis.server {
            RedisServer::Uri(uri) => {
                self = self.set("REDIS_URL_FILE", path("redis", &uri.key));
                vec![(uri.key.clone(), uri)]
            }
            RedisServer::Host {
                host,
                port,
                username,
                password,
            } => {
                self = self.set("REDIS_HOST", host).set("REDIS_PORT", port);
                if let Some(username) = username {
                    self = self.set("REDIS_USERNAME", username);
                }
                self.password("REDIS_PASSWORD_FILE", "redis", password.as_ref())
            }
        };
        self.certificates("redis", "REDIS", files, &redis.certificates)
            .set("REDIS_KEY_PREFIX", &redis.connect.key_prefix)
    }

    /// Names the file of a password, and gives it to be mounted.
    fn password(
        &mut self,
        name: &str,
        store: &str,
        at: Option<&'a SecretKey>,
    ) -> Vec<(String, &'a SecretKey)> {
        let file = "password".to_owned();
        if at.is_some() {
            self.variables.push(variable(name, path(store, &file)));
        }
        at.into_iter().map(|at| (file.clone(), at)).collect()
    }

    /// Mounts a store's certificates beside its other files.
    fn certificates(
        mut self,
        store: &'static str,
        prefix: &str,
        mut files: Vec<(String, &'a SecretKey)>,
        certificates: &'a Certificates,
    ) -> Self {
        let (certificate, key) = certificates.certificate.as_ref().map(|(c, k)| (c, k)).unzip();
        for (name, file, at) in [
            ("CA_FILE", "ca.crt", certificates.ca.as_ref()),
            ("CERTIFICATE_FILE", "tls.crt", certificate),
            ("KEY_FILE", "tls.key", key),
        ] {
            if let Some(at) = at {
                self = self.set(&format!("{prefix}_{name}"), path(store, file));
                files.push((file.to_owned(), at));
            }
        }
        self.mount(store, files)
    }

    /// Where the component's traces go, if the pipeline is traced.
    fn tracing(self, pipeline: &Pipeline, component: Component) -> Self {
        let Some(tracing) = &pipeline.tracing else {
            return self;
        };
        self.set("OTEL_EXPORTER_OTLP_ENDPOINT", &tracing.otlp_endpoint)
            .set("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
            .set("OTEL_TRACES_SAMPLER_ARG", tracing.sampling_ratio)
            .set("OTEL_SERVICE_NAME", child_name(&pipeline.name, component))
            .set(
                "OTEL_RESOURCE_ATTRIBUTES",
                format!("k8s.namespace.name={}", pipeline.namespace),
            )
    }

    pub fn access(mut self, access: &'a Access) -> Self {
        if let Some(jwt) = &access.jwt {
            self = self.jwt(jwt);
        }
        if let Some(limit) = &access.rate_limit {
            self = self
                .set("RATE_LIMIT_REQUESTS", limit.requests)
                .set("RATE_LIMIT_WINDOW", &limit.window);
        }
        for (name, list) in [
            ("TRUSTED_PROXIES", &access.trusted_proxies),
            ("CORS_ALLOWED_ORIGINS", &access.allowed_origins),
        ] {
            if !list.is_empty() {
                self = self.set(name, list.join(","));
            }
        }
        self
    }

    fn jwt(mut self, jwt: &'a Jwt) -> Self {
        self = self
            .set("AUTH_MODE", "jwt")
            .set("AUTH_JWT_ALGORITHMS", jwt.algorithms.join(","));
        let file = match &jwt.keys {
            JwtKeys::Secret(at) => Some(("AUTH_JWT_SECRET_FILE", "secret", at)),
            JwtKeys::Set(at) => Some(("AUTH_JWKS_FILE", "jwks.json", at)),
            JwtKeys::Url { url, ca } => {
                self = self.set("AUTH_JWKS_URL", url);
                ca.as_ref().map(|at| ("AUTH_JWKS_CA_FILE", "ca.crt", at))
            }
        };
        if let Some((name, file, at)) = file {
            self = self
                .set(name, path("auth", file))
                .mount("auth", vec![(file.to_owned(), at)]);
        }
        for (name, text) in [("AUTH_ISSUER", &jwt.issuer), ("AUTH_AUDIENCE", &jwt.audience)] {
            if let Some(text) = text {
                self = self.set(name, text);
            }
        }
        self
    }

    fn mount(mut self, store: &'static str, files: Vec<(String, &'a SecretKey)>) -> Self {
        if !files.is_empty() {
            self.mounts.push(Mount { store, files });
        }
        self
    }
}

/// The API's variables and files.
pub fn api(pipeline: &Pipeline) -> Environment<'_> {
    Environment::default()
        .set("HTTP_ADDR", "0.0.0.0:8080")
        .access(&pipeline.access)
        .postgres(&pipeline.postgres)
        .elasticsearch(&pipeline.elasticsearch)
        .redis(&pipeline.redis)
        .set("IDEMPOTENCY_TTL", &pipeline.redis.idempotency_ttl)
        .set("SEARCH_CACHE_TTL", &pipeline.redis.search_cache_ttl)
        .set("SEARCH_STALE_IF_ERROR", &pipeline.redis.search_stale_if_error)
        .tracing(pipeline, Component::Api)
}

/// The relay's variables and files.
pub fn relay(pipeline: &Pipeline) -> Environment<'_> {
    Environment::default()
        .postgres(&pipeline.postgres)
        .kafka(&pipeline.kafka)
        .set("RELAY_BATCH_SIZE", pipeline.relay.batch_size)
        .set("RELAY_POLL_INTERVAL", &pipeline.relay.poll_interval)
        .set("OUTBOX_RETENTION", &pipeline.postgres.outbox_retention)
        .tracing(pipeline, Component::Relay)
}

/// The indexer's variables and files. PostgreSQL is for its tools, `verify` and `rebuild`, which are run in its pods.
pub fn indexer(pipeline: &Pipeline) -> Environment<'_> {
    Environment::default()
        .postgres(&pipeline.postgres)
        .kafka(&pipeline.kafka)
        // Pipelines that share a Kafka cluster must not share a group: each would get only some of its partitions.
        .set(
            "KAFKA_GROUP_ID",
            format!("{}.{}.indexer", pipeline.namespace, pipeline.name),
        )
        .elasticsearch(&pipeline.elasticsearch)
        .redis(&pipeline.redis)
        .set("INDEXER_BULK_MAX_DOCUMENTS", pipeline.indexer.max_documents)
        .set("INDEXER_BULK_MAX_BYTES", pipeline.indexer.max_bytes)
        .set("INDEXER_BULK_MAX_DELAY", &pipeline.indexer.max_delay)
        .tracing(pipeline, Component::Indexer)
}

/// The migration's variables and files.
pub fn migrate(pipeline: &Pipeline) -> Environment<'_> {
    Environment::default().postgres(&pipeline.postgres)
}

/// The variables and files of the Job that fills an index.
pub fn reindex(pipeline: &Pipeline) -> Environment<'_> {
    Environment::default()
        .postgres(&pipeline.postgres)
        .elasticsearch(&pipeline.elasticsearch)
}
