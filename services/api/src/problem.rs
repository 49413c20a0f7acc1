//! Errors as callers see them: RFC 9457 `application/problem+json`.
//!
//! Which one to use:
//! - the request itself is wrong: [`Problem::invalid`] when single fields are to blame (name them all),
//!   [`Problem::malformed`] when it can't be read at all, [`Problem::too_large`], [`Problem::unsupported_media_type`];
//! - what it speaks of is not there: [`Problem::unknown`];
//! - the caller is not known, may not, or has asked too often: [`Problem::unauthorized`], [`Problem::forbidden`],
//!   [`Problem::too_many_requests`], to which `http::auth` and `http::limit` add the headers that go with them;
//! - it is fine but the state of things is against it: [`Problem::out_of_stock`], [`Problem::not_cancellable`],
//!   [`Problem::key_reused`];
//! - it was meant for another version of what it changes: [`Problem::other_version`], [`Problem::precondition_required`];
//! - a store is away, overloaded or slow: [`Problem::unavailable`], [`Problem::timed_out`]; both log the cause, which the
//!   caller never sees; [`Problem::try_again`] where that was done already;
//! - it is our fault: [`Problem::internal`], which logs the cause, too; [`Problem::our_fault`] where that was done already.
//!
//! A problem is only complete with the request's correlation id, which `http::middleware` adds on the way out; that is why
//! [`Problem::into_response`] leaves the body to it.

use std::fmt::Display;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use commerce_core::order::Status;
use serde::Serialize;
use utoipa::ToSchema;

/// What problem types start with. A tag URI (RFC 4151) identifies and leads nowhere.
const TYPE_PREFIX: &str = "tag:commerce.lab,2026:";
/// When to try again after a store was away.
const RETRY_AFTER_SECONDS: u64 = 1;

/// An answer that says why the request was not done.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// What kind of problem this is; stays the same in all versions.
    #[serde(rename = "type", serialize_with = "with_prefix")]
    #[schema(value_type = String, format = "uri", example = "tag:commerce.lab,2026:out-of-stock")]
    kind: &'static str,
    /// The kind in words.
    #[schema(value_type = String)]
    title: &'static str,
    /// The HTTP status.
    #[serde(serialize_with = "as_number")]
    #[schema(value_type = u16)]
    status: StatusCode,
    /// What happened this time, for people.
    detail: String,
    /// The request's correlation id.
    #[serde(skip_serializing_if = "str::is_empty")]
    #[schema(required, value_type = String)]
    correlation_id: Box<str>,
    /// Every field that was wrong; only with status 400.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
    /// How many pieces are left; only when there are too few.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = i64, required = false, minimum = 0)]
    available: Option<i64>,
}

/// What is wrong with one field of the body, one query parameter or one header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// The field, parameter or header.
    pub field: String,
    /// What it is and what is accepted.
    pub message: String,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind,
            title,
            status,
            detail: detail.into(),
            correlation_id: Box::default(),
            errors: Vec::new(),
            available: None,
        }
    }

    /// 400: these fields are wrong.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = errors
            .iter()
            .map(|error| format!("{} {}", error.field, error.message))
            .collect::<Vec<_>>();
        let problem = Self::new(
            StatusCode::BAD_REQUEST,
            "invalid-request",
            "Invalid request",
            detail.join("; "),
        );
        Self { errors, ..problem }
    }

    /// 400: the request can't be read.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "malformed-request",
            "Malformed request",
            detail,
        )
    }

    /// 401: it is not known who calls.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized", detail)
    }

    /// 403: this caller may not.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Forbidden", detail)
    }

    /// 429: this caller has asked too often.
    pub fn too_many_requests(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too-many-requests",
            "Too many requests",
            detail,
        )
    }

    /// 404: there is no such thing.
    pub fn unknown(what: &str, id: impl Display) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "Not found",
            format!("there is no {what} {id}"),
        )
    }

    /// 404: no route has this path.
    pub fn no_such_path() -> Self {
        let detail = "nothing is at this path; GET /openapi.json lists what there is";
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    /// 405; the router adds `Allow`.
    pub fn method_not_allowed() -> Self {
        let detail = "this path takes other methods; the header Allow lists them";
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "Method not allowed",
            detail,
        )
    }

    /// 409: too few pieces left.
    pub fn out_of_stock(sku_id: i64, wanted: i32, available: i64) -> Self {
        let detail = format!("SKU {sku_id} has {available} pieces left, {wanted} were ordered");
        let problem = Self::new(StatusCode::CONFLICT, "out-of-stock", "Not enough stock", detail);
        Self {
            available: Some(available),
            ..problem
        }
    }

    /// 409: an order that stands at `status` is not cancelled any more.
    pub fn not_cancellable(status: Status) -> Self {
        let detail = format!("the order is {status}, and no longer to be cancelled");
        Self::new(StatusCode::CONFLICT, "not-cancellable", "Not cancellable", detail)
    }

    /// 412: `what` has another version than the caller's `If-Match` names.
    pub fn other_version(what: &str, version: i64) -> Self {
        let detail = format!("the {what} has version {version}, which If-Match does not name; read it again");
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "other-version",
            "Another version",
            detail,
        )
    }

    /// 428: the change could undo another one unseen.
    pub fn precondition_required() -> Self {
        let detail = "others change this, too: send the header If-Match with the ETag of what you have read";
        Self::new(
            StatusCode::PRECONDITION_REQUIRED,
            "precondition-required",
            "Precondition required",
            detail,
        )
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        let detail = format!("the body is larger than {limit} bytes");
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "Body too large",
            detail,
        )
    }

    /// 415.
    pub fn unsupported_media_type() -> Self {
        let detail = "the body must be JSON, with content-type application/json";
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            "Unsupported media type",
            detail,
        )
    }

    /// 422: the idempotency key belongs to another request.
    pub fn key_reused() -> Self {
        let detail = "this user has used this idempotency key for an order of another SKU or quantity";
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "Idempotency key reused",
            detail,
        )
    }

    /// 503: `what` (seen by the caller) can't be done now because of `cause` (logged).
    pub fn unavailable(what: &str, cause: &dyn Display) -> Self {
        tracing::warn!(%cause, "{what} not possible now");
        Self::try_again(what)
    }

    /// 503: `what` can't be done now, for a reason that has been logged or counted.
    pub fn try_again(what: &str) -> Self {
        let detail = format!("{what} is not possible now; try again soon");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "Temporarily unavailable",
            detail,
        )
    }

    /// 504: `what` took too long.
    pub fn timed_out(what: &str) -> Self {
        tracing::warn!("{what} took too long");
        let detail = format!("{what} took too long; try again soon");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "Took too long", detail)
    }

    /// 500: `what` failed because of `cause` (logged).
    pub fn internal(what: &str, cause: &dyn Display) -> Self {
        tracing::error!(%cause, "{what} failed");
        Self::our_fault()
    }

    /// 500, for a reason that has been logged.
    pub fn our_fault() -> Self {
        let detail = "this is our fault; the log has more under the correlation id";
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Internal error",
            detail,
        )
    }

    /// 503 or 500, by what PostgreSQL or the way to it says; `what` is what could not be done.
    pub fn from_postgres(what: &str, error: &sqlx::Error) -> Self {
        if commerce_core::postgres::is_away(error) {
            Self::unavailable(what, error)
        } else {
            Self::internal(what, error)
        }
    }

    /// The whole answer.
    pub fn render(mut self, correlation_id: &str) -> Body {
        self.correlation_id = correlation_id.into();
        // A problem is made of strings and numbers, which always serialize.
        Body::from(serde_json::to_vec(&self).unwrap_or_default())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if matches!(
            self.status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        ) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response.extensions_mut().insert(self);
        response
    }
}

fn with_prefix<S: serde::Serializer>(kind: &&'static str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{TYPE_PREFIX}{kind}"))
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}
