//! How to reach Redis. Redis only makes answers faster: whoever uses it goes on without it.

use std::time::Duration;

use redis::{
    ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo,
    TlsCertificates,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    config::Env,
    tls::{Tls, variables},
};

const ACCEPTED: &str = "a Redis URI such as redis://:password@host:6379/0 (rediss:// for TLS)";

pub const DEFAULT_PORT: u16 = 6379;

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
        Self::with_tls(parse_url(url)?, None, key_prefix)
    }

    /// To a server by its address and login. With `tls` the connection is encrypted, whatever a URI said; `None` where the address
    /// is none to connect to.
    #[must_use]
    pub fn with_tls(info: ConnectionInfo, tls: Option<&Tls>, key_prefix: impl Into<String>) -> Option<Self> {
        let client = match tls {
            None => redis::Client::open(info),
            Some(tls) => {
                let addr = encrypted(info.addr())?;
                let certificates = TlsCertificates {
                    client_tls: tls.certificate().map(|(certificate, key)| ClientTlsConfig {
                        client_cert: certificate.into(),
                        client_key: key.into(),
                    }),
                    root_cert: tls.ca().map(Into::into),
                };
                redis::Client::build_with_tls(info.set_addr(addr), certificates)
            }
        };
        Some(Self {
            client: client.ok()?,
            key_prefix: key_prefix.into(),
        })
    }

    /// Reads the `REDIS_…` variables: `REDIS_URL`, or its parts, and `REDIS_KEY_PREFIX`.
    pub fn from_env(env: &mut Env) -> Option<Self> {
        let key_prefix = env
            .optional_text("REDIS_KEY_PREFIX")
            .unwrap_or_else(|| "commerce:".to_owned());
        let files = Tls::from_env(env, &variables::REDIS);
        let tls = env.switch(variables::REDIS.tls, files.is_some())?;
        if files.is_some() && !tls {
            env.problem("REDIS_CA_FILE and REDIS_CERTIFICATE_FILE need REDIS_TLS to be true");
        }
        let tls = tls.then(|| files.unwrap_or_default());
        if let Some(host) = env.optional_text("REDIS_HOST") {
            let info = parts_from_env(env, host)?;
            return Self::with_tls(info, tls.as_ref(), key_prefix);
        }
        let url = env.secret("REDIS_URL", ACCEPTED)?;
        let config = parse_url(&url).and_then(|info| Self::with_tls(info, tls.as_ref(), key_prefix));
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

/// The address and login that a URI stands for; `None` where it is not one.
#[must_use]
pub fn parse_url(url: &SecretString) -> Option<ConnectionInfo> {
    url.expose_secret().into_connection_info().ok()
}

/// The address and login that parts stand for. Without a user name it is Redis's `default`.
#[must_use]
pub fn info(
    host: String,
    port: u16,
    database: i64,
    username: Option<&str>,
    password: Option<&SecretString>,
) -> Option<ConnectionInfo> {
    let mut login = RedisConnectionInfo::default().set_db(database);
    if let Some(username) = username {
        login = login.set_username(username);
    }
    if let Some(password) = password {
        login = login.set_password(password.expose_secret());
    }
    let info = ConnectionAddr::Tcp(host, port).into_connection_info().ok()?;
    Some(info.set_redis_settings(login))
}

fn parts_from_env(env: &mut Env, host: String) -> Option<ConnectionInfo> {
    if env.optional_text("REDIS_URL").is_some() || env.optional_text("REDIS_URL_FILE").is_some() {
        env.problem("REDIS_URL and REDIS_HOST are both set; one of them says where Redis is");
    }
    let port = env.number("REDIS_PORT", DEFAULT_PORT, 1, u16::MAX);
    let database = env.number("REDIS_DATABASE", 0, 0, i64::MAX);
    let username = env.optional_text("REDIS_USERNAME");
    let password = env.optional_secret("REDIS_PASSWORD");
    info(host, port?, database?, username.as_deref(), password.as_ref())
}

/// The same address, encrypted, and with the server's certificate verified.
fn encrypted(addr: &ConnectionAddr) -> Option<ConnectionAddr> {
    match addr {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Some(ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            })
        }
        _ => None,
    }
}
