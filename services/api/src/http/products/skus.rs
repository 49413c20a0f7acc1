//! `POST /products/{id}/skus`

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{AppendHeaders, Response},
};

use crate::{
    catalogue::{Sku, change::add_sku},
    http::{
        auth::CatalogueWriter,
        etag::tagged,
        fields::{Body, PathId},
        products::create::{SkuRequest, sku},
    },
    openapi::{BadRequest, BodyRefused, StoreAway},
    problem::Problem,
    state::Shared,
};

/// Adds a SKU to a product.
#[utoipa::path(
    post,
    path = "/products/{id}/skus",
    operation_id = "addSku",
    tag = "catalogue",
    params(("id" = i64, Path, description = "The product's id", minimum = 1, maximum = 9_223_372_036_854_775_807_i64)),
    request_body = SkuRequest,
    security(("bearer" = ["catalog:write"])),
    responses(
        (status = 201, description = "The SKU", body = Sku, headers(
            ("Location" = String, description = "Path of the SKU"),
            ("ETag" = String, description = "Its version"),
        )),
        BadRequest,
        (status = 404, description = "There is no such product", body = Problem, content_type = "application/problem+json"),
        BodyRefused,
        StoreAway,
    ),
)]
pub async fn create(
    State(app): State<Shared>,
    _: CatalogueWriter,
    PathId(id): PathId,
    mut body: Body,
) -> Result<Response, Problem> {
    let new = sku(&mut body);
    body.finish()?;
    let new = new.ok_or_else(|| Problem::malformed("name or stock is missing"))?;
    let added = add_sku(&app.pool, id, &new)
        .await
        .map_err(|error| Problem::from_postgres("adding a SKU", &error))?;
    let sku = added.ok_or_else(|| Problem::unknown("product", id))?;
    let location = AppendHeaders([(header::LOCATION, format!("/skus/{}", sku.sku_id))]);
    Ok(tagged(sku.version, (StatusCode::CREATED, location, Json(sku))))
}
