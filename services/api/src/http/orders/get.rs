//! `GET /orders/{id}`

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    http::fields::PathId,
    openapi::{BadRequest, StoreAway},
    orders::read::{self, Order},
    problem::Problem,
    state::Shared,
};

/// One order.
///
/// As it is now: it is there as soon as it is placed, and before a search finds it.
#[utoipa::path(
    get,
    path = "/orders/{id}",
    tag = "orders",
    params(
        ("id" = String, Path, description = "The order's id", pattern = "^[1-9][0-9]{0,18}$"),
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
    PathId(id): PathId,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let order = read::by_id(&app.pool, id)
        .await
        .map_err(|error| Problem::from_postgres("reading orders", &error))?;
    let order = order.ok_or_else(|| Problem::unknown("order", id))?;
    let tag = format!("\"{}\"", order.version);
    let mut response = if has(&headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Json(order).into_response()
    };
    if let Ok(tag) = HeaderValue::try_from(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Whether the caller has the version that `tag` stands for (RFC 9110, 13.1.2).
fn has(headers: &HeaderMap, tag: &str) -> bool {
    let values = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut tags = values.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|given| given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag)
}
