//! What the handlers share.

use std::sync::Arc;

use axum::body::Bytes;
use sqlx::PgPool;

use crate::{
    metrics::Metrics,
    orders::{intake::Intake, replay::Replays},
    search::Search,
};

/// Handed to every handler.
pub type Shared = Arc<App>;

/// One replica's parts.
#[derive(Debug)]
pub struct App {
    pub pool: PgPool,
    pub intake: Intake,
    pub replays: Replays,
    pub search: Search,
    pub metrics: Metrics,
    /// The OpenAPI document, as it is served.
    pub openapi: Bytes,
}
