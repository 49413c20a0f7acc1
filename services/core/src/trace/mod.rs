//! Traces: spans sent over OTLP, off unless configured.
//!
//! A trace follows an order: the API's span of the request, the relay's of publishing the event, the indexer's until the
//! order can be found. The W3C trace context (<https://www.w3.org/TR/trace-context/>) that goes from one to the next, in the
//! outbox row and the event's headers, makes them one trace. Only a request begins a trace; the others go on with one that
//! is sampled, and do nothing for an event that is not.

mod config;
mod export;

use std::{borrow::Cow, time::Duration};

use opentelemetry::{
    Context, KeyValue, Value,
    trace::{
        Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
        TraceState, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

pub use self::{config::TraceConfig, export::Error};

/// The name of the header, of requests as of events.
pub const TRACEPARENT: &str = "traceparent";
/// How long the last spans may take to be sent when a service stops.
const FLUSH: Duration = Duration::from_secs(3);

/// Begins spans. The default one is off: its spans record nothing and cost nothing.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<On>);

#[derive(Debug, Clone)]
struct On {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// What a span is to the event it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It publishes the event.
    Producer,
    /// It processes the event.
    Consumer,
}

/// Something that takes time; it ends when it is dropped.
#[derive(Debug, Default)]
pub struct Span(Option<Box<opentelemetry_sdk::trace::Span>>);

impl Tracer {
    /// Sends what it records to the configured endpoint, from a thread of its own; must be called in a Tokio runtime.
    /// Spans that can't be sent are dropped.
    pub fn new(config: &TraceConfig) -> Result<Self, Error> {
        let Some(export) = &config.0 else {
            return Ok(Self::default());
        };
        let provider = export::provider(export)?;
        let tracer = provider.tracer("commerce-pipeline");
        Ok(Self(Some(On { provider, tracer })))
    }

    /// Whether any span records anything.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The span of a request: part of the caller's trace, if `traceparent` names one, else of a new one. Whether it records
    /// is the sampler's decision.
    #[must_use]
    pub fn request(&self, name: &'static str, traceparent: Option<&str>) -> Span {
        let Some(On { tracer, .. }) = &self.0 else {
            return Span::default();
        };
        let parent = traceparent.and_then(parse).map_or_else(Context::new, |parent| {
            Context::new().with_remote_span_context(parent)
        });
        let builder = tracer.span_builder(name).with_kind(SpanKind::Server);
        Span::of(tracer.build_with_context(builder, &parent))
    }

    /// The span of an event's next step, if its `traceparent` names a trace that is sampled.
    #[must_use]
    pub fn event(&self, role: Role, traceparent: Option<&str>, name: impl FnOnce() -> String) -> Span {
        let (Some(On { tracer, .. }), Some(traceparent)) = (&self.0, traceparent) else {
            return Span::default();
        };
        let Some(parent) = parse(traceparent).filter(SpanContext::is_sampled) else {
            return Span::default();
        };
        let kind = match role {
            Role::Producer => SpanKind::Producer,
            Role::Consumer => SpanKind::Consumer,
        };
        let builder = tracer.span_builder(name()).with_kind(kind);
        let parent = Context::new().with_remote_span_context(parent);
        Span::of(tracer.build_with_context(builder, &parent))
    }

    /// Sends what is left, for up to three seconds; nothing is recorded afterwards.
    pub async fn shut_down(self) {
        let Some(On { provider, .. }) = self.0 else { return };
        // What could not be sent was logged by the exporter.
        let _ = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH)).await;
    }
}

impl Span {
    fn of(span: opentelemetry_sdk::trace::Span) -> Self {
        Self(span.is_recording().then(|| Box::new(span)))
    }

    /// Whether it will be sent.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        self.0.is_some()
    }

    /// The context for whatever continues it; `None` where it records nothing.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        let context = self.0.as_ref()?.span_context();
        let (trace, span, flags) = (context.trace_id(), context.span_id(), context.trace_flags());
        Some(format!("00-{trace}-{span}-{flags:02x}"))
    }

    /// What it is called from now on.
    pub fn rename(&mut self, name: impl Into<Cow<'static, str>>) {
        if let Some(span) = &mut self.0 {
            span.update_name(name);
        }
    }

    /// Describes it, by the names of OpenTelemetry's semantic conventions where there is one.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Something happened in it.
    pub fn event(&mut self, name: &'static str) {
        if let Some(span) = &mut self.0 {
            span.add_event(name, Vec::new());
        }
    }

    /// It failed, and why.
    pub fn fail(&mut self, why: impl Into<Cow<'static, str>>) {
        if let Some(span) = &mut self.0 {
            span.set_status(Status::error(why));
        }
    }
}

/// Whether the text is a trace context.
#[must_use]
pub fn is_traceparent(text: &str) -> bool {
    parse(text).is_some()
}

fn parse(text: &str) -> Option<SpanContext> {
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let well_formed = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    if !well_formed || version == "ff" || parts.next().is_some() {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(parent).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_well_formed_trace_context_is_one() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good));
        assert!(is_traceparent(&good.replace("-01", "-00")));
        for text in [
            "",
            "00-0-0-0",
            &good.to_uppercase(),
            &format!("{good}-x"),
            &good.replace("00-4", "ff-4"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert!(!is_traceparent(text), "{text}");
        }
    }

    #[test]
    fn a_tracer_that_is_off_records_nothing() {
        let tracer = Tracer::default();
        let sampled = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert!(!tracer.request("GET", sampled).is_recording());
        let span = tracer.event(Role::Consumer, sampled, || panic!("a name for nothing"));
        assert_eq!(span.traceparent(), None);
    }
}
