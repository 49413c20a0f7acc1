//! Which pages of other origins may read answers (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may remember what a preflight told it.
const MAX_AGE: Duration = Duration::from_mins(10);

/// `None` where no origin is allowed. There are no cookies here, so credentials need no allowance.
pub fn layer(origins: &[String]) -> Option<CorsLayer> {
    let name = HeaderName::from_static;
    let allowed = match origins {
        [] => return None,
        [all] if all == "*" => AllowOrigin::any(),
        origins => AllowOrigin::list(
            origins
                .iter()
                .filter_map(|origin| HeaderValue::try_from(origin).ok()),
        ),
    };
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            name("idempotency-key"),
            name("traceparent"),
            name("tracestate"),
            name("x-correlation-id"),
        ])
        .expose_headers([
            header::AGE,
            header::ALLOW,
            header::ETAG,
            header::LINK,
            header::LOCATION,
            header::RETRY_AFTER,
            header::WWW_AUTHENTICATE,
            name("idempotency-replayed"),
            name("ratelimit"),
            name("ratelimit-policy"),
            name("x-cache"),
            name("x-correlation-id"),
        ])
        .max_age(MAX_AGE);
    Some(layer)
}
