//! `PUT /skus/{id}/stock`
//!
//! Every order gives its SKU a new version. So `If-Match` makes sure that nobody overwrites the stock without knowing what
//! has been sold of it, and the header is asked for.

use axum::{Json, extract::State, response::Response};
use utoipa::ToSchema;

use crate::{
    catalogue::{
        Sku,
        change::{StockSet, set_stock},
    },
    http::{
        auth::CatalogueWriter,
        etag::{IfMatch, tagged},
        fields::{Body, PathId},
        rules::STOCKS,
    },
    openapi::{BadRequest, BodyRefused, OtherVersion, StoreAway, VersionNeeded},
    problem::Problem,
    state::Shared,
};

/// What `PUT /skus/{id}/stock` takes, for the OpenAPI document.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its description is used")]
pub struct StockRequest {
    /// Pieces that can be ordered from now on.
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64, example = 250)]
    stock: i64,
}

/// Sets the stock of a SKU.
///
/// To what can be ordered from now on: pieces of orders that were placed are not part of it.
#[utoipa::path(
    put,
    path = "/skus/{id}/stock",
    operation_id = "setStock",
    tag = "catalogue",
    params(
        ("id" = i64, Path, description = "The SKU's id", minimum = 1, maximum = 9_223_372_036_854_775_807_i64),
        ("If-Match" = String, Header, description = "The SKU's ETag, or `*` for whatever version it has",
            pattern = r#"^(\*|(W/)?"[!#-~]*"( ?, ?(W/)?"[!#-~]*")*)$"#),
    ),
    request_body = StockRequest,
    security(("bearer" = ["catalog:write"])),
    responses(
        (status = 200, description = "The SKU", body = Sku, headers(("ETag" = String, description = "Its version"))),
        BadRequest,
        (status = 404, description = "There is no such SKU", body = Problem, content_type = "application/problem+json"),
        OtherVersion,
        BodyRefused,
        VersionNeeded,
        StoreAway,
    ),
)]
pub async fn set(
    State(app): State<Shared>,
    _: CatalogueWriter,
    PathId(id): PathId,
    if_match: IfMatch,
    mut body: Body,
) -> Result<Response, Problem> {
    let stock = body.number("stock", &STOCKS);
    body.finish()?;
    let stock = stock.ok_or_else(|| Problem::malformed("stock is missing"))?;
    let set = set_stock(&app.pool, id, stock, &if_match.required()?)
        .await
        .map_err(|error| Problem::from_postgres("setting a stock", &error))?;
    match set {
        StockSet::Set(sku) => Ok(tagged(sku.version, Json(sku))),
        StockSet::OtherVersion(sku) => Err(Problem::other_version("SKU", sku.version)),
        StockSet::UnknownSku => Err(Problem::unknown("SKU", id)),
    }
}
