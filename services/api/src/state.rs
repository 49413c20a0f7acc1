//! What the handlers share.

use std::sync::Arc;

use axum::body::Bytes;
use commerce_core::trace::Tracer;
use sqlx::PgPool;

use crate::{
    http::Access,
    metrics::Metrics,
    orders::{document::Documents, intake::Intake, replay::Replays},
    search::Search,
    wake::Wake,
};

/// Handed to every handler.
pub type Shared = Arc<App>;

/// One replica's parts.
#[derive(Debug)]
pub struct App {
    pub pool: PgPool,
    pub intake: Intake,
    pub replays: Replays,
    pub documents: Documents,
    pub wake: Wake,
    pub search: Arc<Search>,
    pub access: Access,
    pub metrics: Metrics,
    pub tracer: Tracer,
    /// The OpenAPI document, as it is served.
    pub openapi: Bytes,
}
