//! How to reach Elasticsearch.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use elasticsearch::{
    Elasticsearch,
    auth::{ClientCertificate, Credentials},
    cert::{Certificate, CertificateValidation},
    http::{
        Url,
        headers::{AUTHORIZATION, HeaderValue},
        response::Response,
        transport::{SingleNodeConnectionPool, TransportBuilder},
    },
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use elasticsearch::Elasticsearch as Client;

use crate::{
    config::Env,
    tls::{Tls, variables},
};

/// Where Elasticsearch is, how to prove who we are, and the alias that reads and writes go through.
#[derive(Debug, Clone)]
pub struct ElasticsearchConfig {
    pub url: Url,
    pub username: Option<String>,
    pub password: Option<SecretString>,
    /// Only for https.
    pub tls: Option<Tls>,
    /// The alias.
    pub index: String,
}

/// What went wrong between us and Elasticsearch. None of it repeats credentials.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("preparing the Elasticsearch client: {0}")]
    Client(String),
    #[error("calling Elasticsearch to {action}: {source}")]
    Transport {
        action: &'static str,
        source: elasticsearch::Error,
    },
    #[error("Elasticsearch refused to {action}: {status} {reason}")]
    Refused {
        action: &'static str,
        status: u16,
        reason: String,
    },
}

impl ElasticsearchConfig {
    /// No credentials: for tests and local runs.
    #[must_use]
    pub fn open(url: Url, index: impl Into<String>) -> Self {
        Self {
            url,
            username: None,
            password: None,
            tls: None,
            index: index.into(),
        }
    }

    /// Reads the `ELASTICSEARCH_…` variables.
    pub fn from_env(env: &mut Env) -> Option<Self> {
        let accepted = "an http:// or https:// URL";
        let url = env.text("ELASTICSEARCH_URL", accepted).and_then(|text| {
            let url = Url::parse(&text)
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https"));
            if url.is_none() {
                env.problem(format!("ELASTICSEARCH_URL is {text:?}; it takes {accepted}"));
            }
            url
        });
        let username = env.optional_text("ELASTICSEARCH_USERNAME");
        let password = env.optional_secret("ELASTICSEARCH_PASSWORD");
        if username.is_some() != password.is_some() {
            env.problem(
                "ELASTICSEARCH_USERNAME and ELASTICSEARCH_PASSWORD(_FILE) go together; only one is set",
            );
        }
        let tls = Tls::from_env(env, &variables::ELASTICSEARCH);
        if tls.is_some() && url.as_ref().is_some_and(|url| url.scheme() == "http") {
            env.problem("ELASTICSEARCH_CA_FILE and ELASTICSEARCH_CERTIFICATE_FILE need ELASTICSEARCH_URL to start with https://");
        }
        let index = env
            .optional_text("ELASTICSEARCH_INDEX")
            .unwrap_or_else(|| "orders".to_owned());
        Some(Self {
            url: url?,
            username,
            password,
            tls,
            index,
        })
    }

    /// A client; no call on it takes longer than `timeout`.
    pub fn client(&self, timeout: Duration) -> Result<Elasticsearch, Error> {
        let client_error = |error: &dyn std::fmt::Display| Error::Client(error.to_string());
        let mut builder = TransportBuilder::new(SingleNodeConnectionPool::new(self.url.clone()))
            .timeout(timeout)
            .disable_proxy()
            .enable_meta_header(false);
        let login = self.username.as_ref().zip(self.password.as_ref());
        let (certificate, ca) = match &self.tls {
            Some(tls) => (tls.certificate(), tls.ca()),
            None => (None, None),
        };
        if let Some((certificate, key)) = certificate {
            let identity = format!("{certificate}\n{key}").into_bytes();
            builder = builder.auth(Credentials::Certificate(ClientCertificate::Pem(identity)));
            // The builder takes one kind of credentials.
            if let Some((username, password)) = login {
                builder = builder.header(AUTHORIZATION, basic(username, password)?);
            }
        } else if let Some((username, password)) = login {
            let password = password.expose_secret().to_owned();
            builder = builder.auth(Credentials::Basic(username.clone(), password));
        }
        if let Some(ca) = ca {
            let authorities = Certificate::from_pem(ca.as_bytes()).map_err(|error| client_error(&error))?;
            builder = builder.cert_validation(CertificateValidation::Full(authorities));
        }
        Ok(Elasticsearch::new(
            builder.build().map_err(|error| client_error(&error))?,
        ))
    }
}

/// The header of HTTP basic authentication, marked as secret.
fn basic(username: &str, password: &SecretString) -> Result<HeaderValue, Error> {
    let pair = STANDARD.encode(format!("{username}:{}", password.expose_secret()));
    let header = HeaderValue::from_str(&format!("Basic {pair}"));
    let mut header = header.map_err(|error| Error::Client(error.to_string()))?;
    header.set_sensitive(true);
    Ok(header)
}

impl Error {
    /// Whether the same call may succeed later: Elasticsearch away, overloaded or starting.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Client(_) => false,
            Self::Transport { .. } => true,
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500..),
        }
    }

    /// The HTTP status that Elasticsearch answered, if it answered.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// The body of a successful answer; `action` completes "calling Elasticsearch to …".
pub async fn body(
    action: &'static str,
    answer: Result<Response, elasticsearch::Error>,
) -> Result<Value, Error> {
    body_as(action, answer).await
}

/// The same, read into a type of its own: for answers that are long.
pub async fn body_as<T: DeserializeOwned>(
    action: &'static str,
    answer: Result<Response, elasticsearch::Error>,
) -> Result<T, Error> {
    let response = answer.map_err(|source| Error::Transport { action, source })?;
    let status = response.status_code();
    if status.is_success() {
        return response
            .json()
            .await
            .map_err(|source| Error::Transport { action, source });
    }
    let text = response.text().await.unwrap_or_default();
    let reason = serde_json::from_str::<Value>(&text)
        .ok()
        .and_then(|value| {
            value
                .pointer("/error/reason")
                .and_then(Value::as_str)
                .map(str::to_owned)
        })
        .unwrap_or_else(|| text.chars().take(200).collect());
    Err(Error::Refused {
        action,
        status: status.as_u16(),
        reason,
    })
}

/// The same, with `None` for 404.
pub async fn body_if_found(
    action: &'static str,
    answer: Result<Response, elasticsearch::Error>,
) -> Result<Option<Value>, Error> {
    match body(action, answer).await {
        Err(error) if error.status() == Some(404) => Ok(None),
        other => other.map(Some),
    }
}
