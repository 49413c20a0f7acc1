//! Logs: one JSON object a line on standard error, level by `LOG_LEVEL` (a tracing filter such as `info` or
//! `info,sqlx=debug`), `LOG_FORMAT=text` for people.
//!
//! Where `LOG_LEVEL_FILE` names a file, the level is what that file says, and changes with it while the process runs.

use std::{fmt, fs, io::Stderr, path::PathBuf, time::Duration};

use serde::Serializer as _;
use serde_json::{Map, Value};
use tracing::span::Record;
use tracing_serde::SerdeMapVisitor;
use tracing_subscriber::{
    EnvFilter,
    field::RecordFields,
    fmt::{
        FormatFields, FormattedFields, MakeWriter, SubscriberBuilder,
        format::{DefaultFields, Format, Json, Writer},
    },
    util::SubscriberInitExt as _,
};

use crate::config::Env;

/// How to log.
#[derive(Debug, Clone)]
pub struct LogConfig {
    filter: String,
    json: bool,
    file: Option<PathBuf>,
}

/// How often the file with the level is read; a mounted ConfigMap takes the kubelet longer.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Takes another filter from now on.
type Change = Box<dyn Fn(EnvFilter) -> bool + Send>;

impl LogConfig {
    /// Reads `LOG_LEVEL`, `LOG_LEVEL_FILE` and `LOG_FORMAT`.
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
            file: env.optional_text("LOG_LEVEL_FILE").map(PathBuf::from),
        })
    }
}

/// Starts logging for the whole process. The first call wins. Where a file tells the level, this has to be called inside a runtime.
pub fn init(config: &LogConfig) {
    // An error here means that logging is set up already, which tests do.
    let _ = match &config.file {
        None if config.json => json_lines(config, std::io::stderr).finish().try_init(),
        None => text_lines(config).finish().try_init(),
        Some(file) if config.json => {
            let lines = json_lines(config, std::io::stderr).with_filter_reloading();
            let handle = lines.reload_handle();
            let change: Change = Box::new(move |filter| handle.reload(filter).is_ok());
            // Only then: what is said before that is lost.
            let ready = lines.finish().try_init();
            follow(file.clone(), config.filter.clone(), change);
            ready
        }
        Some(file) => {
            let lines = text_lines(config).with_filter_reloading();
            let handle = lines.reload_handle();
            let change: Change = Box::new(move |filter| handle.reload(filter).is_ok());
            // Only then: what is said before that is lost.
            let ready = lines.finish().try_init();
            follow(file.clone(), config.filter.clone(), change);
            ready
        }
    };
}

/// Changes the level with the file. What can't be read or is no filter leaves it as it is.
fn follow(file: PathBuf, mut now: String, change: Change) {
    tokio::spawn(async move {
        let mut refused = String::new();
        loop {
            let told = fs::read_to_string(&file).unwrap_or_default();
            let told = told.trim();
            if !told.is_empty() && told != now && told != refused {
                if EnvFilter::try_new(told).is_ok_and(&change) {
                    tracing::warn!(before = now, now = told, "the log level has changed");
                    told.clone_into(&mut now);
                } else {
                    tracing::warn!(file = %file.display(), told, "no tracing filter such as info or info,kube=debug; the log level stays");
                    told.clone_into(&mut refused);
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    });
}

type Lines<N, E, W> = SubscriberBuilder<N, E, EnvFilter, W>;

fn text_lines(config: &LogConfig) -> Lines<DefaultFields, Format, fn() -> Stderr> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&config.filter))
        .with_writer(std::io::stderr)
}

fn json_lines<W>(config: &LogConfig, writer: W) -> Lines<SpanFields, Format<Json>, W>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&config.filter))
        .with_writer(writer)
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .fmt_fields(SpanFields)
}

/// The fields of a span as JSON, once for each request, so that it makes no values on the way as the crate's own does.
#[derive(Debug)]
struct SpanFields;

impl<'writer> FormatFields<'writer> for SpanFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        writer.write_str(&json(fields).map_err(|_| fmt::Error)?)
    }

    fn add_fields(&self, current: &'writer mut FormattedFields<Self>, fields: &Record<'_>) -> fmt::Result {
        let merge = || {
            let mut all: Map<String, Value> = serde_json::from_str(current)?;
            all.extend(serde_json::from_str::<Map<String, Value>>(&json(fields)?)?);
            serde_json::to_string(&all)
        };
        current.fields = merge().map_err(|_| fmt::Error)?;
        Ok(())
    }
}

fn json(fields: impl RecordFields) -> serde_json::Result<String> {
    let mut bytes = Vec::with_capacity(160);
    let mut serializer = serde_json::Serializer::new(&mut bytes);
    let mut visitor = SerdeMapVisitor::new(serializer.serialize_map(None)?);
    fields.record(&mut visitor);
    visitor.finish()?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing::{field::Empty, info, info_span, subscriber::with_default};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_has_the_fields_of_the_event_and_of_its_span() {
        let (lines, config) = (
            Lines::default(),
            LogConfig {
                filter: "info".to_owned(),
                json: true,
                file: None,
            },
        );
        let written = lines.clone();
        let subscriber = json_lines(&config, move || written.clone()).finish();
        with_default(subscriber, || {
            let span = info_span!("request", path = "/a\"b", size = 3, later = Empty);
            span.record("later", "now");
            span.in_scope(|| info!(status = 200, "answered"));
        });
        let line: Value = serde_json::from_slice(&lines.0.lock().unwrap()).unwrap();
        assert_eq!(line["message"], "answered");
        assert_eq!(line["status"], 200);
        let span = serde_json::json!({"path": "/a\"b", "size": 3, "later": "now", "name": "request"});
        assert_eq!(line["span"], span);
    }
}
