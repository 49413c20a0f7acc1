//! `GET /orders/{id}/timeline`

use axum::{Json, extract::State};

use crate::{
    http::{auth::Caller, fields::PathId},
    openapi::{BadRequest, StoreAway},
    orders::timeline::{Timeline, history},
    problem::Problem,
    state::Shared,
};

/// How far an order has come.
///
/// When it was placed, cancelled, published and indexed, and whether searches find it. Where the index can't be asked, what
/// PostgreSQL knows is told all the same, and the rest is `UNKNOWN`.
#[utoipa::path(
    get,
    path = "/orders/{id}/timeline",
    operation_id = "getOrderTimeline",
    tag = "orders",
    params(("id" = i64, Path, description = "The order's id", minimum = 1, maximum = 9_223_372_036_854_775_807_i64)),
    responses(
        (status = 200, description = "The order's stages", body = Timeline),
        BadRequest,
        (status = 404, description = "There is no such order", body = Problem, content_type = "application/problem+json"),
        StoreAway,
    ),
)]
pub async fn timeline(
    State(app): State<Shared>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Json<Timeline>, Problem> {
    let history = history(&app.pool, id)
        .await
        .map_err(|error| Problem::from_postgres("reading orders", &error))?;
    let history = history
        .filter(|history| caller.may_see(&history.order.user_id))
        .ok_or_else(|| Problem::unknown("order", id))?;
    let indexed = app
        .documents
        .of(&history.order.order_id, history.order.version)
        .await;
    Ok(Json(Timeline::new(history, indexed)))
}
