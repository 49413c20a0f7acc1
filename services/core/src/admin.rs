//! The port that Kubernetes and Prometheus talk to: `/livez`, `/readyz`, `/metrics` and `/status`. It is never behind
//! the ingress.
//!
//! `/readyz` answers 200 or 503 and a JSON object that names every store and what is wrong with it. A store that goes
//! away later does not make a process unready unless the process says so: were every replica to leave the Service at
//! once, callers would get the ingress's error instead of ours.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, Router, extract::State, http::StatusCode, http::header, response::IntoResponse, routing::get,
};
use prometheus_client::registry::Registry;
use serde::Serialize;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{config::Env, tls::advise_check};

/// The log tells of a failing check's new message not sooner than this after the one before: what several tasks report
/// of one outage differs and alternates.
const NEXT_MESSAGE: Duration = Duration::from_secs(10);

/// An error with all its causes, each said once.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// What a check means for the readiness of the whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Not ready whenever the check fails.
    Always,
    /// Not ready until the check has passed once.
    ToStart,
    /// Reported only.
    Never,
}

#[derive(Debug, Clone, Serialize)]
struct Check {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip)]
    need: Need,
    #[serde(skip)]
    passed_once: bool,
    /// The message that was logged last, and when.
    #[serde(skip)]
    logged: Option<(Instant, Option<String>)>,
}

/// The checks of this process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    checks: Arc<Mutex<BTreeMap<&'static str, Check>>>,
}

/// One check; it starts as not ready.
#[derive(Debug, Clone)]
pub struct Gate {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Adds a check.
    #[must_use]
    pub fn gate(&self, name: &'static str, need: Need) -> Gate {
        let message = Some("not reached yet".to_owned());
        self.lock().insert(
            name,
            Check {
                ready: false,
                message,
                need,
                passed_once: false,
                logged: None,
            },
        );
        Gate {
            name,
            readiness: self.clone(),
        }
    }

    /// Whether the process should get work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(|check| match check.need {
            Need::Always => check.ready,
            Need::ToStart => check.passed_once,
            Need::Never => true,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Check>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// The check passes. Logs when that is news.
    pub fn pass(&self) {
        if self.set(true, None) {
            tracing::info!(check = self.name, "ready");
        }
    }

    /// The check fails; `message` says why, without credentials. What TLS complains about gets advice. Logs when that is news.
    pub fn fail(&self, message: impl Into<String>) {
        let message = advise_check(message.into(), self.name);
        if self.set(false, Some(message.clone())) {
            tracing::warn!(check = self.name, reason = message, "not ready");
        }
    }

    /// Passes or fails by a result.
    pub fn report<T, E: std::fmt::Display>(&self, result: &Result<T, E>) {
        match result {
            Ok(_) => self.pass(),
            Err(error) => self.fail(error.to_string()),
        }
    }

    fn set(&self, ready: bool, message: Option<String>) -> bool {
        let mut checks = self.readiness.lock();
        let Some(check) = checks.get_mut(self.name) else {
            return false;
        };
        let news = check.ready != ready
            || check
                .logged
                .as_ref()
                .is_none_or(|(at, logged)| *logged != message && at.elapsed() >= NEXT_MESSAGE);
        if news {
            check.logged = Some((Instant::now(), message.clone()));
        }
        check.ready = ready;
        check.message = message;
        check.passed_once |= ready;
        news
    }
}

type StatusFn = Arc<dyn Fn() -> Value + Send + Sync>;

#[derive(Clone)]
struct AdminState {
    readiness: Readiness,
    registry: Arc<Registry>,
    status: StatusFn,
}

/// The admin port.
pub struct AdminServer {
    listener: TcpListener,
    state: AdminState,
}

impl std::fmt::Debug for AdminServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminServer")
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

/// Reads `ADMIN_ADDR`.
pub fn address_from_env(env: &mut Env) -> Option<SocketAddr> {
    let default = SocketAddr::from(([0, 0, 0, 0], 9090));
    env.parsed(
        "ADMIN_ADDR",
        default,
        "address:port such as 0.0.0.0:9090",
        |value| value.parse().ok(),
    )
}

impl AdminServer {
    /// Binds the port; the metrics in `registry` are complete by now.
    pub async fn bind(
        address: SocketAddr,
        readiness: Readiness,
        registry: Registry,
    ) -> std::io::Result<Self> {
        let state = AdminState {
            readiness,
            registry: Arc::new(registry),
            status: Arc::new(|| Value::Null),
        };
        Ok(Self {
            listener: TcpListener::bind(address).await?,
            state,
        })
    }

    /// What `/status` answers.
    #[must_use]
    pub fn with_status(mut self, status: impl Fn() -> Value + Send + Sync + 'static) -> Self {
        self.state.status = Arc::new(status);
        self
    }

    /// Where it listens (with port 0, the port that was chosen).
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`.
    pub async fn serve(self, stop: CancellationToken) -> std::io::Result<()> {
        let router = Router::new()
            .route("/livez", get(async || "ok"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route(
                "/status",
                get(async |State(state): State<AdminState>| Json((state.status)())),
            )
            .with_state(self.state);
        axum::serve(self.listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
    }
}

async fn readyz(State(state): State<AdminState>) -> impl IntoResponse {
    let ready = state.readiness.is_ready();
    let checks = state.readiness.lock().clone();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(serde_json::json!({"ready": ready, "checks": checks})),
    )
}

async fn metrics(State(state): State<AdminState>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &state.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text)
        }
        Err(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            String::new(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_goes_away_later_keeps_the_process_ready_only_if_it_was_needed_to_start() {
        let readiness = Readiness::default();
        let (start, always) = (
            readiness.gate("start", Need::ToStart),
            readiness.gate("always", Need::Always),
        );
        let _never = readiness.gate("never", Need::Never);
        assert!(!readiness.is_ready());
        start.pass();
        always.pass();
        assert!(readiness.is_ready());
        start.fail("gone");
        assert!(readiness.is_ready());
        always.fail("gone");
        assert!(!readiness.is_ready());
    }
}
