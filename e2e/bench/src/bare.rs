//! The least that an HTTP answer of this size costs with the same libraries.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use axum::{Router, http::header, routing::get};

/// About as long as a page of one order.
const BODY: &str = r#"[{"orderId":"1","skuId":1,"quantity":2,"userId":"bench","status":"CREATED","version":1,"correlationId":"00000000-0000-4000-8000-000000000000","createdAt":"2026-01-31T12:00:00.000000Z"}]"#;

/// Serves `GET /search/orders` until it is killed.
pub async fn serve(address: SocketAddr) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let answer = async || ([(header::CONTENT_TYPE, "application/json")], BODY);
    let router = Router::new().route("/search/orders", get(answer));
    axum::serve(listener, router)
        .await
        .context("serving the bare route")
}
