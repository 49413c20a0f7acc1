//! An OTLP collector for tests.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, body::Bytes, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind},
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::task::AbortOnDropHandle;

/// Takes traces over HTTP and keeps them.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Collected>>>,
    _task: AbortOnDropHandle<()>,
}

/// A span as the collector got it; ids are in hexadecimal, as in a `traceparent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collected {
    pub service: String,
    pub name: String,
    pub kind: SpanKind,
    pub trace: String,
    pub id: String,
    /// Empty where it is the first of its trace.
    pub parent: String,
    pub failed: bool,
}

impl Collector {
    /// Listens on a free port.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let spans = Arc::<Mutex<Vec<Collected>>>::default();
        let kept = spans.clone();
        let take = move |body: Bytes| async move {
            let Ok(request) = ExportTraceServiceRequest::decode(body) else {
                return StatusCode::BAD_REQUEST;
            };
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(collected(request));
            StatusCode::OK
        };
        let router = Router::new().route("/v1/traces", post(take));
        let task: JoinHandle<()> = tokio::spawn(async move {
            // A test that needs it notices that it has ended.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            address,
            spans,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All that came so far, in the order in which they came.
    #[must_use]
    pub fn spans(&self) -> Vec<Collected> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn collected(request: ExportTraceServiceRequest) -> Vec<Collected> {
    let mut spans = Vec::new();
    for of_resource in request.resource_spans {
        let attributes = of_resource
            .resource
            .map(|resource| resource.attributes)
            .unwrap_or_default();
        let service = attributes
            .into_iter()
            .find(|attribute| attribute.key == "service.name")
            .and_then(|attribute| match attribute.value?.value? {
                Value::StringValue(text) => Some(text),
                _ => None,
            })
            .unwrap_or_default();
        let of_scopes = of_resource.scope_spans.into_iter();
        spans.extend(
            of_scopes
                .flat_map(|scope| scope.spans)
                .map(|span| of(&service, span)),
        );
    }
    spans
}

fn of(service: &str, span: Span) -> Collected {
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    Collected {
        service: service.to_owned(),
        kind: span.kind(),
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        failed: span.status.is_some_and(|status| status.code == 2),
        name: span.name,
    }
}
