//! The HTTP interface: one file for each action, laid out like the paths.
//!
//! From the outside in, around every action: [`middleware::observe`] (correlation id, span, metrics, complete problems), CORS,
//! panics, the time limit, [`admit`] (who calls, and how often), the body limit. What is not configured is not there.

mod admit;
mod auth;
mod client;
mod cors;
mod docs;
mod etag;
mod fields;
mod limit;
mod middleware;
mod orders;
mod products;
mod rules;
mod skus;

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{HeaderValue, header},
    middleware::from_fn_with_state,
    response::IntoResponse,
    routing::get,
};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use self::{admit::Access, auth::describe, client::Peer};
use crate::{openapi, problem::Problem, state::Shared};

/// The largest body that is read.
const BODY_LIMIT: usize = 16 * 1024;

/// The documented routes.
pub fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(openapi::head())
        .routes(routes!(orders::create::create))
        .routes(routes!(orders::get::get))
        .routes(routes!(orders::cancel::cancel))
        .routes(routes!(orders::timeline::timeline))
        .routes(routes!(orders::search::search))
        .routes(routes!(products::list::list, products::create::create))
        .routes(routes!(products::get::get))
        .routes(routes!(products::skus::create))
        .routes(routes!(skus::get::get))
        .routes(routes!(skus::stock::set))
}

/// All routes, with what happens around each.
pub fn router(app: Shared) -> Router {
    let (router, _) = routes().split_for_parts();
    let mut router = router
        .route("/openapi.json", get(document))
        .route("/docs", get(docs::page))
        .route("/docs/{file}", get(docs::file))
        .fallback(async || Problem::no_such_path())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(DefaultBodyLimit::max(BODY_LIMIT));
    if app.access.is_restricted() {
        router = router.layer(from_fn_with_state(app.clone(), admit::admit));
    }
    router = router.layer(CatchPanicLayer::custom(middleware::panicked));
    if let Some(cors) = app.access.cors.clone() {
        router = router.layer(cors);
    }
    router
        .layer(from_fn_with_state(app.clone(), middleware::observe))
        .with_state(app)
}

async fn document(State(app): State<Shared>) -> impl IntoResponse {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], app.openapi.clone())
}
