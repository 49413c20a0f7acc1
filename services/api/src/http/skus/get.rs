//! `GET /skus/{id}`

use axum::{extract::State, http::HeaderMap, response::Response};

use crate::{
    catalogue::{self, Sku},
    http::{auth::Caller, etag::unless_known, fields::PathId},
    openapi::{BadRequest, StoreAway},
    problem::Problem,
    state::Shared,
};

/// One SKU.
///
/// Its `ETag` is what `PUT /skus/{id}/stock` takes as `If-Match`.
#[utoipa::path(
    get,
    path = "/skus/{id}",
    operation_id = "getSku",
    tag = "catalogue",
    params(
        ("id" = i64, Path, description = "The SKU's id", minimum = 1, maximum = 9_223_372_036_854_775_807_i64),
        ("If-None-Match" = Option<String>, Header, description = "An ETag from before; 304 where it is still the SKU's"),
    ),
    responses(
        (status = 200, description = "The SKU", body = Sku, headers(("ETag" = String, description = "Its version"))),
        (status = 304, description = "It has not changed"),
        BadRequest,
        (status = 404, description = "There is no such SKU", body = Problem, content_type = "application/problem+json"),
        StoreAway,
    ),
)]
pub async fn get(
    State(app): State<Shared>,
    _: Caller,
    PathId(id): PathId,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let sku = catalogue::sku_by_id(&app.pool, id)
        .await
        .map_err(|error| Problem::from_postgres("reading the catalogue", &error))?;
    let sku = sku.ok_or_else(|| Problem::unknown("SKU", id))?;
    Ok(unless_known(&headers, sku.version, sku))
}
