//! Cancelling an order: it is marked, its pieces go back into stock and its event into the outbox, all or nothing.
//!
//! What always holds:
//! - The order's row is locked before its outbox row is written: outbox ids of one order follow the order of commits, on
//!   which the relay rests.
//! - The order's row is locked before its SKU's, and nothing is changed before both are. [`super::place`] holds SKUs while
//!   it writes orders. It passes by an order that is only locked, but where it meets its own user and key it waits for one
//!   that is being changed, and that one must not wait for a SKU. So the two never wait for each other.
//! - Whoever comes second finds the order cancelled and changes nothing: the pieces go back once.

use commerce_core::{
    event::{AGGREGATE_TYPE, EventType, OrderEvent},
    order::{Status, Step},
};
use sqlx::{Connection as _, PgConnection, PgPool, types::Json};
use uuid::Uuid;

use super::read::{self, Order};
use crate::version::Expected;

const LOCK_SKU: &str = "select from skus where sku_id = $1 for no key update";
const WRITE: &str = include_str!("cancel.sql");

/// Who asks for the change: what its event carries on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Of the request. The order keeps that of the request that placed it.
    pub correlation_id: String,
    /// The caller's W3C trace context.
    pub traceparent: Option<String>,
}

/// What became of it. Only [`Cancellation::Cancelled`] has changed anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancellation {
    /// The order as it is now.
    Cancelled(Order),
    /// It was cancelled before. So a repeated request is answered like the first, whatever version it expects.
    Already(Order),
    /// No way leads from where it stands to being cancelled.
    Refused(Order),
    /// It has another version than the caller expects.
    OtherVersion(Order),
    UnknownOrder,
}

/// Cancels an order; with `owner`, only one of theirs, and others are unknown. Where this fails, nothing is changed; where it fails while committing, it may be, and a repetition
/// finds out.
pub async fn cancel(
    pool: &PgPool,
    order_id: i64,
    owner: Option<&str>,
    expected: &Expected,
    cause: &Cause,
) -> Result<Cancellation, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let mut transaction = connection
        .begin_with("begin isolation level read committed")
        .await?;
    let found = read::lock(&mut transaction, order_id).await?;
    let Some(order) = found.filter(|order| owner.is_none_or(|owner| owner == order.user_id)) else {
        return Ok(Cancellation::UnknownOrder);
    };
    match order.status.step_to(Status::Cancelled) {
        Step::Done => return Ok(Cancellation::Already(order)),
        _ if !expected.includes(order.version) => return Ok(Cancellation::OtherVersion(order)),
        Step::Refused => return Ok(Cancellation::Refused(order)),
        Step::Allowed => {}
    }
    sqlx::query(LOCK_SKU)
        .bind(order.sku_id)
        .execute(&mut *transaction)
        .await?;
    let cancelled = Order {
        status: Status::Cancelled,
        version: order.version + 1,
        ..order
    };
    write(&mut transaction, order_id, &cancelled, cause).await?;
    transaction.commit().await?;
    Ok(Cancellation::Cancelled(cancelled))
}

async fn write(
    connection: &mut PgConnection,
    order_id: i64,
    order: &Order,
    cause: &Cause,
) -> Result<(), sqlx::Error> {
    let event = OrderEvent {
        order_id: order.order_id.clone(),
        sku_id: order.sku_id,
        quantity: order.quantity,
        user_id: order.user_id.clone(),
        status: order.status,
        version: order.version,
        correlation_id: order.correlation_id.clone(),
        event_type: EventType::from(order.status),
        created_at: order.created_at,
    };
    sqlx::query(WRITE)
        .bind(order_id)
        .bind(order.status.as_str())
        .bind(Uuid::now_v7())
        .bind(AGGREGATE_TYPE)
        .bind(event.event_type.topic())
        .bind(Json(&event))
        .bind(cause.traceparent.as_deref())
        .bind(&cause.correlation_id)
        .execute(connection)
        .await?;
    Ok(())
}
