//! `GET /products`

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse as _, Response},
};

use crate::{
    catalogue::{self, Product},
    http::{
        auth::Caller,
        fields,
        rules::{LIMIT, PRODUCT_CURSOR},
    },
    openapi::{BadRequest, StoreAway},
    page::{cursor, next_link},
    problem::Problem,
    state::Shared,
};

const PATH: &str = "/products";

/// The catalogue, by product id.
#[utoipa::path(
    get,
    path = PATH,
    operation_id = "listProducts",
    tag = "catalogue",
    params(
        ("limit" = Option<u16>, Query, description = "How many at most; 20 where absent", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, description = "From the header `Link` of the page before", format = "cursor"),
    ),
    responses(
        (status = 200, description = "One page", body = Vec<Product>, headers(
            ("Link" = String, description = "`rel=\"next\"`: the next page; absent on the last"),
        )),
        BadRequest,
        StoreAway,
    ),
)]
pub async fn list(
    State(app): State<Shared>,
    _: Caller,
    mut parameters: fields::Query,
) -> Result<Response, Problem> {
    let limit = usize::from(parameters.optional("limit", &LIMIT).unwrap_or(20));
    let after = parameters.optional("cursor", &PRODUCT_CURSOR).unwrap_or(0);
    let text = parameters.finish()?;
    // One more than the page holds, to know whether another page follows.
    let wanted = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut products = catalogue::list(&app.pool, after, wanted)
        .await
        .map_err(|error| Problem::from_postgres("reading the catalogue", &error))?;
    let more = products.len() > limit;
    products.truncate(limit);
    let next = products
        .last()
        .filter(|_| more)
        .map(|last| cursor(&last.product_id));
    let mut response = Json(products).into_response();
    if let Some(link) = next.and_then(|cursor| next_link(PATH, text.as_deref(), &cursor)) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}
