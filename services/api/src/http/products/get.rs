//! `GET /products/{id}`

use axum::{Json, extract::State};

use crate::{
    catalogue::{self, Product},
    http::{auth::Caller, fields::PathId},
    openapi::{BadRequest, StoreAway},
    problem::Problem,
    state::Shared,
};

/// One product.
#[utoipa::path(
    get,
    path = "/products/{id}",
    operation_id = "getProduct",
    tag = "catalogue",
    params(("id" = i64, Path, description = "The product's id", minimum = 1, maximum = 9_223_372_036_854_775_807_i64)),
    responses(
        (status = 200, description = "The product", body = Product),
        BadRequest,
        (status = 404, description = "There is no such product", body = Problem, content_type = "application/problem+json"),
        StoreAway,
    ),
)]
pub async fn get(State(app): State<Shared>, _: Caller, PathId(id): PathId) -> Result<Json<Product>, Problem> {
    let product = catalogue::by_id(&app.pool, id)
        .await
        .map_err(|error| Problem::from_postgres("reading the catalogue", &error))?;
    product.map(Json).ok_or_else(|| Problem::unknown("product", id))
}
