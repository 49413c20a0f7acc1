//! The OpenAPI document, made from the handlers.

use utoipa::{IntoResponses, OpenApi};

use crate::{http, problem::Problem};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Commerce Pipeline",
        description = "Takes orders, tells about them and finds them. Every answer carries `X-Correlation-Id`: the caller's, \
                       if it is 1 to 80 visible ASCII characters, else a new one.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        contact(),
    ),
    tags(
        (name = "orders", description = "Placing orders, cancelling and following them"),
        (name = "search", description = "Finding orders"),
        (name = "catalogue", description = "What can be ordered"),
    ),
)]
struct Head;

/// The document without routes.
pub(crate) fn head() -> utoipa::openapi::OpenApi {
    Head::openapi()
}

/// The whole document.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = http::routes().to_openapi();
    http::describe(&mut document);
    document
}

/// The request is at fault.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
#[response(
    status = 400,
    description = "The request is malformed; `errors` names each field that is wrong",
    content_type = "application/problem+json"
)]
pub(crate) struct BadRequest(Problem);

/// What a request with a body can be refused for, beside its fields.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
pub(crate) enum BodyRefused {
    #[response(
        status = 413,
        description = "The body is too large",
        content_type = "application/problem+json"
    )]
    TooLarge(Problem),
    #[response(
        status = 415,
        description = "The body is not JSON",
        content_type = "application/problem+json"
    )]
    MediaType(Problem),
}

/// The key belongs to another request.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
#[response(
    status = 422,
    description = "The idempotency key was used for another request",
    content_type = "application/problem+json"
)]
pub(crate) struct KeyReused(Problem);

/// `If-Match` names another version.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
#[response(
    status = 412,
    description = "It has another version than `If-Match` names",
    content_type = "application/problem+json"
)]
pub(crate) struct OtherVersion(Problem);

/// `If-Match` is missing.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
#[response(
    status = 428,
    description = "The header `If-Match` is missing",
    content_type = "application/problem+json"
)]
pub(crate) struct VersionNeeded(Problem);

/// A store is away.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
#[response(
    status = 503,
    description = "A store is away; `Retry-After` says when to try again",
    content_type = "application/problem+json"
)]
pub(crate) struct StoreAway(Problem);
