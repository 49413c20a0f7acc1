//! `POST /orders/{id}/cancel`
//!
//! An order that is cancelled already is answered like the one that has just been, whatever `If-Match` says: what was
//! asked for is so, and the caller may be repeating a request whose answer was lost (RFC 9110, 13.1.1, allows this).

use axum::{Json, extract::State, http::HeaderMap, response::Response};

use crate::{
    http::{
        auth::Caller,
        etag::{IfMatch, tagged},
        fields::PathId,
        middleware::CorrelationId,
        rules,
    },
    openapi::{BadRequest, OtherVersion, StoreAway},
    orders::{
        cancel::{Cancellation, Cause, cancel as cancel_order},
        read::Order,
    },
    problem::Problem,
    state::Shared,
};

/// Cancels an order.
///
/// Gives its pieces back into stock and announces it, in one transaction, once: an order that is cancelled already stays as
/// it is and is answered in the same way, so the request can be repeated until it is answered.
#[utoipa::path(
    post,
    path = "/orders/{id}/cancel",
    operation_id = "cancelOrder",
    tag = "orders",
    params(
        ("id" = i64, Path, description = "The order's id", minimum = 1, maximum = 9_223_372_036_854_775_807_i64),
        ("If-Match" = Option<String>, Header, description = "The ETag of the order to cancel; 412 where it has changed since",
            pattern = r#"^(\*|(W/)?"[!#-~]*"( ?, ?(W/)?"[!#-~]*")*)$"#),
    ),
    responses(
        (status = 200, description = "The order is cancelled", body = Order, headers(
            ("ETag" = String, description = "Its version"),
        )),
        BadRequest,
        (status = 404, description = "There is no such order", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The order can't be cancelled any more", body = Problem,
            content_type = "application/problem+json"),
        OtherVersion,
        StoreAway,
    ),
)]
pub async fn cancel(
    State(app): State<Shared>,
    caller: Caller,
    PathId(id): PathId,
    if_match: IfMatch,
    correlation_id: CorrelationId,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let cause = Cause {
        correlation_id: correlation_id.as_str().to_owned(),
        traceparent: rules::traceparent_of(&headers),
    };
    let owner = caller.user().map(|user| &**user);
    let cancellation = cancel_order(&app.pool, id, owner, &if_match.or_any(), &cause)
        .await
        .map_err(|error| Problem::from_postgres("cancelling an order", &error))?;
    let order = match cancellation {
        Cancellation::Cancelled(order) => {
            app.wake.outbox_changed();
            order
        }
        Cancellation::Already(order) => order,
        Cancellation::Refused(order) => return Err(Problem::not_cancellable(order.status)),
        Cancellation::OtherVersion(order) => return Err(Problem::other_version("order", order.version)),
        Cancellation::UnknownOrder => return Err(Problem::unknown("order", id)),
    };
    Ok(tagged(order.version, Json(order)))
}
