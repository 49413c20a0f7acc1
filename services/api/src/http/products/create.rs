//! `POST /products`

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{AppendHeaders, IntoResponse},
};
use utoipa::ToSchema;

use crate::{
    catalogue::{
        Product,
        change::{NewSku, add_product},
    },
    http::{
        auth::CatalogueWriter,
        fields::Body,
        rules::{MOST_SKUS, NAME, STOCKS},
    },
    openapi::{BadRequest, BodyRefused, StoreAway},
    problem::Problem,
    state::Shared,
};

/// What `POST /products` takes, for the OpenAPI document; [`parse`] reads it.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its description is used")]
pub struct ProductRequest {
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$",
        example = "Kettle"
    )]
    name: String,
    /// What can be ordered of it; more can be added later.
    #[schema(max_items = 100)]
    skus: Option<Vec<SkuRequest>>,
}

/// A SKU to add, for the OpenAPI document; [`sku`] reads it.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its description is used")]
pub struct SkuRequest {
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$",
        example = "Kettle, red"
    )]
    name: String,
    /// Pieces that can be ordered.
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64, example = 100)]
    stock: i64,
}

/// Adds a product.
///
/// With its SKUs, all or nothing.
#[utoipa::path(
    post,
    path = "/products",
    operation_id = "addProduct",
    tag = "catalogue",
    request_body = ProductRequest,
    security(("bearer" = ["catalog:write"])),
    responses(
        (status = 201, description = "The product", body = Product, headers(
            ("Location" = String, description = "Path of the product"),
        )),
        BadRequest,
        BodyRefused,
        StoreAway,
    ),
)]
pub async fn create(
    State(app): State<Shared>,
    _: CatalogueWriter,
    body: Body,
) -> Result<impl IntoResponse, Problem> {
    let (name, skus) = parse(body)?;
    let product = add_product(&app.pool, &name, &skus)
        .await
        .map_err(|error| Problem::from_postgres("adding a product", &error))?;
    let location = format!("/products/{}", product.product_id);
    Ok((
        StatusCode::CREATED,
        AppendHeaders([(header::LOCATION, location)]),
        Json(product),
    ))
}

fn parse(mut body: Body) -> Result<(String, Vec<NewSku>), Problem> {
    let name = body.required_text("name", &NAME);
    let skus = body.objects("skus", MOST_SKUS, sku);
    body.finish()?;
    let name = name.ok_or_else(|| Problem::malformed("name is missing"))?;
    Ok((name, skus.unwrap_or_default()))
}

/// The fields of a SKU to add.
pub fn sku(fields: &mut Body) -> Option<NewSku> {
    let (name, stock) = (
        fields.required_text("name", &NAME),
        fields.number("stock", &STOCKS),
    );
    Some(NewSku {
        name: name?,
        stock: stock?,
    })
}
