//! The side of PostgreSQL: orders, and summaries of them.

use std::str::FromStr as _;

use chrono::{DateTime, Utc};
use commerce_core::order::Status;
use futures::{Stream, stream::try_unfold};
use sqlx::{PgConnection, Row as _, postgres::PgRow};

use super::order::Order;

/// Orders that are summarised together.
pub(super) const BLOCK: i64 = 5_000;

const LAST: &str = "select coalesce(max(order_id), 0) from orders";

// What is hashed is also in `Order::digest`. The digests are of ids that differ, so none cancels another in the exclusive or.
const SUMMARY: &str = "
    select max(order_id), count(*),
           bit_xor(('x' || left(encode(sha256(convert_to(
               concat_ws('|', order_id, sku_id, quantity, status, version,
                         (extract(epoch from created_at) * 1000000)::bigint,
                         octet_length(user_id), user_id, correlation_id),
               'UTF8')), 'hex'), 16))::bit(64)::bigint)
      from (select order_id, sku_id, quantity, status, version, created_at, user_id, correlation_id
              from orders
             where order_id between $1 and $2
             order by order_id
             limit $3) block";

const PAGE: &str = "
    select order_id, sku_id, quantity, user_id, status, version, correlation_id, created_at
      from orders
     where order_id between $1 and $2
     order by order_id
     limit $3";

const THESE: &str = "
    select order_id, sku_id, quantity, user_id, status, version, correlation_id, created_at,
           extract(epoch from now() - updated_at)::float8 as age
      from orders
     where order_id = any($1)";

/// Orders with neighbouring ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    /// The ids from here…
    pub(super) first: i64,
    /// … to here; not every one is an order's.
    pub(super) last: i64,
    pub(super) summary: Summary,
}

/// What orders come to, whatever their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) orders: i64,
    /// Their digests by exclusive or.
    pub(super) digest: i64,
}

impl Summary {
    pub(super) fn add(&mut self, digest: i64) {
        self.orders += 1;
        self.digest ^= digest;
    }
}

/// An order, and how many seconds ago it was last changed.
#[derive(Debug)]
pub(super) struct Aged {
    pub(super) order: Order,
    pub(super) age: f64,
}

/// The highest id; 0 where there are no orders.
pub(super) async fn last(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(LAST).fetch_one(connection).await
}

/// Whether this is a copy that may be behind.
pub(super) async fn is_standby(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select pg_is_in_recovery()")
        .fetch_one(connection)
        .await
}

/// All ids from `first` to `last`, in blocks that follow each other without a gap.
pub(super) fn blocks(
    connection: PgConnection,
    first: i64,
    last: i64,
) -> impl Stream<Item = Result<Block, sqlx::Error>> {
    try_unfold((connection, first), move |(mut connection, first)| async move {
        if first > last {
            return Ok(None);
        }
        let summary = sqlx::query_as(SUMMARY).bind(first).bind(last).bind(BLOCK);
        let (highest, orders, digest): (Option<i64>, i64, Option<i64>) =
            summary.fetch_one(&mut connection).await?;
        let block = Block {
            first,
            last: highest.filter(|_| orders == BLOCK).unwrap_or(last),
            summary: Summary {
                orders,
                digest: digest.unwrap_or_default(),
            },
        };
        Ok(Some((block, (connection, block.last + 1))))
    })
}

/// All orders from `first` on, in pages of so many, including those that come about meanwhile.
pub(super) fn pages(
    connection: PgConnection,
    first: i64,
    size: u32,
) -> impl Stream<Item = Result<Vec<Order>, sqlx::Error>> {
    try_unfold(Some((connection, first)), move |next| async move {
        let Some((mut connection, first)) = next else {
            return Ok(None);
        };
        let orders = page(&mut connection, first, i64::MAX, i64::from(size)).await?;
        let Some((highest, _)) = orders.last() else {
            return Ok(None);
        };
        let full = u32::try_from(orders.len()) == Ok(size);
        let next = full.then_some((connection, highest + 1));
        Ok(Some((orders.into_iter().map(|(_, order)| order).collect(), next)))
    })
}

/// The orders of a block as they are now.
pub(super) async fn of(connection: &mut PgConnection, block: &Block) -> Result<Vec<Order>, sqlx::Error> {
    let orders = page(connection, block.first, block.last, i64::MAX).await?;
    Ok(orders.into_iter().map(|(_, order)| order).collect())
}

/// Those of these orders that exist.
pub(super) async fn these(connection: &mut PgConnection, ids: &[i64]) -> Result<Vec<Aged>, sqlx::Error> {
    sqlx::query(THESE)
        .bind(ids)
        .try_map(|row: PgRow| {
            let (_, order) = from_row(&row)?;
            Ok(Aged {
                order,
                age: row.try_get("age")?,
            })
        })
        .fetch_all(connection)
        .await
}

async fn page(
    connection: &mut PgConnection,
    first: i64,
    last: i64,
    limit: i64,
) -> Result<Vec<(i64, Order)>, sqlx::Error> {
    sqlx::query(PAGE)
        .bind(first)
        .bind(last)
        .bind(limit)
        .try_map(|row: PgRow| from_row(&row))
        .fetch_all(connection)
        .await
}

fn from_row(row: &PgRow) -> Result<(i64, Order), sqlx::Error> {
    let id: i64 = row.try_get("order_id")?;
    let status: &str = row.try_get("status")?;
    let order = Order {
        id: id.to_string(),
        sku_id: row.try_get("sku_id")?,
        quantity: row.try_get("quantity")?,
        user_id: row.try_get("user_id")?,
        status: Status::from_str(status).map_err(|error| sqlx::Error::Decode(error.into()))?,
        version: row.try_get("version")?,
        correlation_id: row.try_get("correlation_id")?,
        created_at: row.try_get::<DateTime<Utc>, _>("created_at")?,
    };
    Ok((id, order))
}
