//! Reading one order from PostgreSQL, and how orders look to callers.

use std::str::FromStr as _;

use chrono::{DateTime, Utc};
use commerce_core::order::Status;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool, Row as _, postgres::PgRow};
use utoipa::ToSchema;

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// A decimal number, as text.
    #[schema(example = "42", pattern = "^[1-9][0-9]{0,18}$")]
    pub order_id: String,
    #[schema(example = 1)]
    pub sku_id: i64,
    #[schema(minimum = 1, maximum = 1000)]
    pub quantity: i32,
    pub user_id: String,
    #[schema(value_type = String, pattern = "^(CREATED|CANCELLED)$", example = "CREATED")]
    pub status: Status,
    /// 1 when created, one more with each change.
    pub version: i64,
    /// Of the request that placed the order.
    pub correlation_id: String,
    pub created_at: DateTime<Utc>,
}

const SELECT: &str = "
    select order_id, sku_id, quantity, user_id, status, version, correlation_id, created_at
      from orders where order_id = $1";

const LOCK: &str = "
    select order_id, sku_id, quantity, user_id, status, version, correlation_id, created_at
      from orders where order_id = $1 for update";

/// The order with this id.
pub async fn by_id(pool: &PgPool, order_id: i64) -> Result<Option<Order>, sqlx::Error> {
    sqlx::query(SELECT)
        .bind(order_id)
        .try_map(|row: PgRow| from_row(&row))
        .fetch_optional(pool)
        .await
}

/// The same, which nobody else can change until the transaction ends.
pub async fn lock(transaction: &mut PgConnection, order_id: i64) -> Result<Option<Order>, sqlx::Error> {
    sqlx::query(LOCK)
        .bind(order_id)
        .try_map(|row: PgRow| from_row(&row))
        .fetch_optional(transaction)
        .await
}

/// The order in a row with all its columns.
pub(super) fn from_row(row: &PgRow) -> Result<Order, sqlx::Error> {
    let status: String = row.try_get("status")?;
    Ok(Order {
        order_id: row.try_get::<i64, _>("order_id")?.to_string(),
        sku_id: row.try_get("sku_id")?,
        quantity: row.try_get("quantity")?,
        user_id: row.try_get("user_id")?,
        status: Status::from_str(&status).map_err(|error| sqlx::Error::Decode(error.into()))?,
        version: row.try_get("version")?,
        correlation_id: row.try_get("correlation_id")?,
        created_at: row.try_get("created_at")?,
    })
}
