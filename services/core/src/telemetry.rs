//! Logs: one JSON object a line on standard error, level by `LOG_LEVEL` (a tracing filter such as `info` or
//! `info,sqlx=debug`), `LOG_FORMAT=text` for people.

use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

use crate::config::Env;

/// How to log.
#[derive(Debug, Clone)]
pub struct LogConfig {
    filter: String,
    json: bool,
}

impl LogConfig {
    /// Reads `LOG_LEVEL` and `LOG_FORMAT`.
    pub fn from_env(env: &mut Env) -> Option<Self> {
        let accepted = "a tracing filter such as info, debug or info,sqlx=debug";
        let filter = env.parsed("LOG_LEVEL", "info".to_owned(), accepted, |value| {
            EnvFilter::try_new(value).is_ok().then(|| value.to_owned())
        });
        let json = env.parsed("LOG_FORMAT", true, "json or text", |value| match value {
            "json" => Some(true),
            "text" => Some(false),
            _ => None,
        });
        Some(Self {
            filter: filter?,
            json: json?,
        })
    }
}

/// Starts logging for the whole process. The first call wins.
pub fn init(config: &LogConfig) {
    let logs = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&config.filter))
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE);
    // An error here means that logging is set up already, which tests do.
    let _ = if config.json {
        logs.json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init()
    } else {
        logs.try_init()
    };
}
