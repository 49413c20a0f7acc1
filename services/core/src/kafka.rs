//! How to reach Kafka.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext, Statistics,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};
use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    config::Env,
    tls::{Tls, variables},
};

/// Where Kafka is, how to prove who we are, and the prefix of this pipeline's topics.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// `host:port[,host:port…]`.
    pub bootstrap_servers: String,
    /// Put before each topic's name; may be empty.
    pub topic_prefix: String,
    /// Encrypted where present.
    pub tls: Option<Tls>,
    pub sasl: Option<Sasl>,
}

/// SASL credentials; `mechanism` is PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
#[derive(Debug, Clone)]
pub struct Sasl {
    pub mechanism: String,
    pub username: String,
    pub password: SecretString,
}

/// A client context for which librdkafka's own words go to the debug log: what failed is said by whoever asked for it.
#[derive(Debug, Clone, Copy)]
pub struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ConsumerContext for Quiet {}

/// How often a watched client gives statistics.
const STATISTICS: Duration = Duration::from_secs(5);

/// How a client fares. Notices one that is lost: nothing but a new client helps. Clients of
/// [`KafkaConfig::watched_client`] that live on report here.
///
/// A broker that has just started may say for a moment that its cluster has no brokers. librdkafka (from 2.10 on, see
/// <https://github.com/confluentinc/librdkafka/issues/5301>) then forgets them all, the configured ones included, and never
/// asks again. And a producer whose idea of what was written differs from the broker's refuses everything from then on.
#[derive(Debug, Default)]
pub struct ClientHealth {
    /// So many statistics in a row named no broker.
    absent: AtomicU32,
    fatal: AtomicBool,
    /// Why a connection failed last.
    failure: Mutex<Option<String>>,
}

impl ClientHealth {
    /// For the client context's `log`. Errors only tell that there is no connection; the log tells why.
    pub fn listen(&self, facility: &str, message: &str) {
        if facility == "FAIL" {
            let failure = message.split_once("]: ").map_or(message, |(_thread, rest)| rest);
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.to_owned());
        }
    }

    /// What the client's log said last of a connection that failed.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// `error`, with the reason from the log where it only says that there is no connection.
    #[must_use]
    pub fn explain(&self, error: &KafkaError) -> String {
        use RDKafkaErrorCode as Code;
        let disconnected = matches!(
            error.rdkafka_error_code(),
            Some(
                Code::BrokerTransportFailure
                    | Code::AllBrokersDown
                    | Code::OperationTimedOut
                    | Code::Resolve
                    | Code::SSL
                    | Code::Authentication
            )
        );
        match self.failure() {
            Some(failure) if disconnected => failure,
            _ => error.to_string(),
        }
    }

    /// For the client context's `error`.
    pub fn complain(&self, error: &KafkaError) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.fatal.store(true, Ordering::Relaxed);
        }
    }

    /// For the client context's `stats`.
    pub fn observe(&self, statistics: &Statistics) {
        let mut sources = statistics.brokers.values().map(|broker| broker.source.as_str());
        if sources.any(|source| matches!(source, "configured" | "learned")) {
            self.absent.store(0, Ordering::Relaxed);
        } else {
            self.absent.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the client will never do its work again. Without brokers it may be once while they are exchanged.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.fatal.load(Ordering::Relaxed) || self.absent.load(Ordering::Relaxed) >= 2
    }

    /// Returns when the client is lost.
    pub async fn lost(&self) {
        while !self.is_lost() {
            tokio::time::sleep(STATISTICS / 5).await;
        }
    }
}

/// [`Quiet`], with an eye on the client's health.
#[derive(Debug, Clone, Default)]
pub struct Watched(pub Arc<ClientHealth>);

impl ConsumerContext for Watched {}

impl ClientContext for Watched {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.listen(facility, message);
        Quiet.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.complain(&error);
        Quiet.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.0.observe(&statistics);
    }
}

const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

impl KafkaConfig {
    /// Plain text, no credentials: for tests and local runs.
    #[must_use]
    pub fn plaintext(bootstrap_servers: impl Into<String>, topic_prefix: impl Into<String>) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.into(),
            topic_prefix: topic_prefix.into(),
            tls: None,
            sasl: None,
        }
    }

    /// Reads the `KAFKA_…` variables.
    pub fn from_env(env: &mut Env) -> Option<Self> {
        let bootstrap_servers = env.text("KAFKA_BOOTSTRAP_SERVERS", "host:port[,host:port…]");
        let topic_prefix = env.optional_text("KAFKA_TOPIC_PREFIX").unwrap_or_default();
        let accepted = "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL";
        let (tls, sasl) = env.parsed(
            "KAFKA_SECURITY_PROTOCOL",
            (false, false),
            accepted,
            |value| match value {
                "PLAINTEXT" => Some((false, false)),
                "SSL" => Some((true, false)),
                "SASL_PLAINTEXT" => Some((false, true)),
                "SASL_SSL" => Some((true, true)),
                _ => None,
            },
        )?;
        let files = Tls::from_env(env, &variables::KAFKA);
        if files.is_some() && !tls {
            env.problem(
                "KAFKA_CA_FILE and KAFKA_CERTIFICATE_FILE need KAFKA_SECURITY_PROTOCOL to be SSL or SASL_SSL",
            );
        }
        let tls = tls.then(|| files.unwrap_or_default());
        let sasl = if sasl { Some(Sasl::from_env(env)?) } else { None };
        Some(Self {
            bootstrap_servers: bootstrap_servers?,
            topic_prefix,
            tls,
            sasl,
        })
    }

    /// The full name of a topic.
    #[must_use]
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.topic_prefix)
    }

    /// The same as [`client`](Self::client), with the statistics that [`Brokers`] looks at.
    #[must_use]
    pub fn watched_client(&self, client_id: &str) -> ClientConfig {
        let mut client = self.client(client_id);
        client.set("statistics.interval.ms", STATISTICS.as_millis().to_string());
        client
    }

    /// A client configuration with address and credentials set; `client_id` names this client in the brokers' logs.
    #[must_use]
    pub fn client(&self, client_id: &str) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", client_id);
        // A broker that comes back is found again soon.
        client
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "2000");
        client
            .set("socket.keepalive.enable", "true")
            .set("log.connection.close", "false");
        let protocol = match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        client.set("security.protocol", protocol);
        if let Some(tls) = &self.tls {
            // The name in the certificate must be the broker's, which is librdkafka's default, too.
            client.set("ssl.endpoint.identification.algorithm", "https");
            let (certificate, key) = tls.certificate().unzip();
            for (setting, pem) in [
                ("ssl.ca.pem", tls.ca()),
                ("ssl.certificate.pem", certificate),
                ("ssl.key.pem", key),
            ] {
                if let Some(pem) = pem {
                    client.set(setting, pem);
                }
            }
        }
        if let Some(sasl) = &self.sasl {
            client
                .set("sasl.mechanism", &sasl.mechanism)
                .set("sasl.username", &sasl.username)
                .set("sasl.password", sasl.password.expose_secret());
        }
        client
    }
}

impl Sasl {
    fn from_env(env: &mut Env) -> Option<Self> {
        let accepted = MECHANISMS.join(", ");
        let mechanism = env.parsed(
            "KAFKA_SASL_MECHANISM",
            "SCRAM-SHA-512".to_owned(),
            &accepted,
            |value| MECHANISMS.contains(&value).then(|| value.to_owned()),
        );
        let username = env.text("KAFKA_SASL_USERNAME", "the SASL user's name");
        let password = env.secret("KAFKA_SASL_PASSWORD", "the SASL user's password");
        Some(Self {
            mechanism: mechanism?,
            username: username?,
            password: password?,
        })
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::Broker;

    use super::*;

    #[test]
    fn a_client_is_lost_when_it_has_named_no_broker_twice() {
        let statistics = |sources: &[&str]| Statistics {
            brokers: sources
                .iter()
                .map(|source| {
                    let source = (*source).to_owned();
                    (
                        source.clone(),
                        Broker {
                            source,
                            ..Broker::default()
                        },
                    )
                })
                .collect(),
            ..Statistics::default()
        };
        let health = ClientHealth::default();
        health.observe(&statistics(&["internal", "logical"]));
        health.observe(&statistics(&["internal", "learned"]));
        health.observe(&statistics(&["internal"]));
        assert!(!health.is_lost());
        health.observe(&statistics(&["internal", "logical"]));
        assert!(health.is_lost());
    }

    #[test]
    fn a_client_is_lost_with_its_first_fatal_error() {
        let context = Watched::default();
        context.error(
            KafkaError::Global(RDKafkaErrorCode::AllBrokersDown),
            "2/2 brokers are down",
        );
        assert!(!context.0.is_lost());
        context.error(
            KafkaError::Global(RDKafkaErrorCode::Fatal),
            "sequence desynchronization",
        );
        assert!(context.0.is_lost());
    }
}
