//! What happens around every request: correlation id, span, metrics, time limit, panics, and the last touch to problems.

use std::{
    any::Any,
    convert::Infallible,
    time::{Duration, Instant},
};

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use commerce_core::trace::{Span, TRACEPARENT, Tracer};
use tracing::{Instrument as _, info_span};
use uuid::Uuid;

use crate::{metrics::Route, problem::Problem, state::Shared};

use super::rules;

const X_CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
/// No request takes longer. Stores have limits of their own, which are shorter.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The id that a request is known by in answers, logs, events and the index.
#[derive(Debug, Clone)]
pub struct CorrelationId(HeaderValue);

impl CorrelationId {
    /// The caller's, if it gave a usable one; else a new one.
    fn of(headers: &HeaderMap) -> Self {
        let usable = |value: &&HeaderValue| value.to_str().is_ok_and(rules::is_correlation_id);
        if let Some(given) = headers.get(X_CORRELATION_ID).filter(usable) {
            return Self(given.clone());
        }
        let mut text = Uuid::encode_buffer();
        let text: &str = Uuid::new_v4().hyphenated().encode_lower(&mut text);
        Self(HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("none")))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        // Only text gets in.
        self.0.to_str().unwrap_or_default()
    }
}

impl<S: Sync> FromRequestParts<S> for CorrelationId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(parts
            .extensions
            .get::<Self>()
            .cloned()
            .unwrap_or_else(|| Self::of(&parts.headers)))
    }
}

/// Gives the request its correlation id, span and time limit, and the answer its header; completes problems; logs, counts
/// and traces.
pub async fn observe(
    State(app): State<Shared>,
    route: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let method = known(request.method());
    let route = Route::new(route);
    let correlation_id = CorrelationId::of(request.headers());
    let mut trace = begin_trace(&app.tracer, method, &route, &mut request);
    let span = info_span!(
        "request",
        correlationId = correlation_id.as_str(),
        method,
        path = request.uri().path()
    );
    request.extensions_mut().insert(correlation_id.clone());
    let mut response = limit_time(next.run(request)).instrument(span.clone()).await;
    let _entered = span.enter();
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        *response.body_mut() = problem.render(correlation_id.as_str());
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    response
        .headers_mut()
        .insert(X_CORRELATION_ID, correlation_id.0.clone());
    let status = response.status().as_u16();
    if trace.is_recording() {
        trace.set("http.response.status_code", i64::from(status));
        trace.set("correlation.id", correlation_id.as_str().to_owned());
        if status >= 500 {
            trace.fail("");
        }
    }
    app.metrics.answered(method, route, status, started.elapsed());
    tracing::debug!(
        status,
        milliseconds = started.elapsed().as_secs_f64() * 1e3,
        "answered"
    );
    response
}

/// The request's span in its trace. Where it is recorded, what the handlers see as the caller's trace context is the
/// span's own, so that whatever they hand it on to continues from here.
fn begin_trace(tracer: &Tracer, method: &'static str, route: &Route, request: &mut Request) -> Span {
    if !tracer.is_on() {
        return Span::default();
    }
    let given = request.headers().get(TRACEPARENT);
    let mut span = tracer.request(method, given.and_then(|value| value.to_str().ok()));
    if let Some(own) = span
        .traceparent()
        .and_then(|text| HeaderValue::try_from(text).ok())
    {
        request.headers_mut().insert(TRACEPARENT, own);
        span.rename(format!("{method} {}", route.as_str()));
        span.set("http.request.method", method);
        span.set("http.route", route.as_str().to_owned());
        span.set("url.path", request.uri().path().to_owned());
    }
    span
}

/// Gives up on a request that takes too long, whatever it is that takes long.
async fn limit_time(answer: impl Future<Output = Response>) -> Response {
    let answer = tokio::time::timeout(TIME_LIMIT, answer).await;
    answer.unwrap_or_else(|_| {
        let cause = format!("not done within {} s", TIME_LIMIT.as_secs());
        Problem::unavailable("answering this request", &cause).into_response()
    })
}

/// A bug; the caller gets an answer all the same.
#[allow(clippy::needless_pass_by_value, reason = "the signature is tower-http's")]
pub fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Problem::internal("answering the request", &message.unwrap_or("panicked")).into_response()
}

/// Methods as labels: there may be no more of them than we know.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_id_is_kept_only_if_it_is_visible_ascii_of_1_to_80_characters() {
        let of = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(X_CORRELATION_ID, HeaderValue::from_bytes(value).unwrap());
            CorrelationId::of(&headers).as_str().as_bytes() == value
        };
        assert!(of(b"a") && of(&[b'~'; 80]));
        assert!(!of(b"") && !of(&[b'~'; 81]) && !of(b"a b") && !of("ä".as_bytes()));
    }
}
