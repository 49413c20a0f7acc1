//! `GET /orders/{id}`

use axum::{extract::State, http::HeaderMap, response::Response};

use crate::{
    http::{auth::Caller, etag::unless_known, fields::PathId},
    openapi::{BadRequest, StoreAway},
    orders::read::{self, Order},
    problem::Problem,
    state::Shared,
};

/// One order.
///
/// As it is now: it is there as soon as it is placed, and before a search finds it. Where authentication is on, another
/// user's order is not found.
#[utoipa::path(
    get,
    path = "/orders/{id}",
    operation_id = "getOrder",
    tag = "orders",
    params(
        ("id" = i64, Path, description = "The order's id", minimum = 1, maximum = 9_223_372_036_854_775_807_i64),
        ("If-None-Match" = Option<String>, Header, description = "An ETag from before; 304 where it is still the order's"),
    ),
    responses(
        (status = 200, description = "The order", body = Order, headers(("ETag" = String, description = "Its version"))),
        (status = 304, description = "It has not changed"),
        BadRequest,
        (status = 404, description = "There is no such order", body = Problem, content_type = "application/problem+json"),
        StoreAway,
    ),
)]
pub async fn get(
    State(app): State<Shared>,
    caller: Caller,
    PathId(id): PathId,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let order = read::by_id(&app.pool, id)
        .await
        .map_err(|error| Problem::from_postgres("reading orders", &error))?;
    let order = order
        .filter(|order| caller.may_see(&order.user_id))
        .ok_or_else(|| Problem::unknown("order", id))?;
    Ok(unless_known(&headers, order.version, order))
}
