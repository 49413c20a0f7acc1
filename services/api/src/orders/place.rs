//! Placing orders: the one way of new ones into the tables `orders`, `skus` and `outbox_log`.
//!
//! [`place`] takes any number of orders and writes them in one transaction, with as many statements for many as for one.
//! Each order gets its own outcome, as if they had come one after the other.
//!
//! What always holds:
//! - Orders, stock and outbox rows change together or not at all.
//! - SKU rows are locked in the order of their ids, and before any key is written; keys are written in their order. So
//!   no two calls can wait for each other.
//! - Outbox ids of one order follow the order of commits, on which the relay rests: nobody can change an order, and so
//!   take a later id for it, before it is committed with its first.
//! - The unique constraint on (user, key) decides who was first. Who loses starts over and then finds the winner's order.

use std::collections::HashMap;

use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::{NewOrder, Outcome, Receipt};

const FIND_KEYS: &str = "
    select orders.user_id, orders.idempotency_key, orders.request_hash, orders.order_id, orders.correlation_id
      from unnest($1::text[], $2::text[]) as wanted (user_id, idempotency_key)
      join orders using (user_id, idempotency_key)";

const LOCK_STOCK: &str = "
    select sku_id, stock from skus where sku_id = any($1) order by sku_id for no key update";

const WRITE: &str = include_str!("place.sql");

/// Settings for a connection on which orders are placed: each statement is planned once, and by indexes.
///
/// Left alone, PostgreSQL plans anew for each small batch, which costs more than placing it; or it keeps the plan that was
/// cheapest while a table was empty, and reads all of it for each batch when it is not. Looking rows up by an index is right at
/// any size.
pub const PLAN_BY_INDEX: &str = "set plan_cache_mode = force_generic_plan; set enable_seqscan = off; \
                                 set enable_hashjoin = off; set enable_mergejoin = off; \
                                 set max_parallel_workers_per_gather = 0";

/// A user and a key.
type Key<'a> = (&'a str, &'a str);

/// The order a key has led to.
#[derive(Debug, Clone)]
struct Existing {
    request_hash: Vec<u8>,
    receipt: Receipt,
}

/// What is to be done about one order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Decision {
    Place,
    /// The same as the order at this place of the batch.
    Repeats(usize),
    Settled(Outcome),
}

/// Places `orders` and tells the outcome of each, in the same order. Nothing is placed where this fails; where it fails
/// while committing, everything may be.
pub async fn place(connection: &mut PgConnection, orders: &[NewOrder]) -> Result<Vec<Outcome>, sqlx::Error> {
    loop {
        let mut transaction = connection
            .begin_with("begin isolation level read committed")
            .await?;
        let existing = find_keys(&mut transaction, orders).await?;
        let stock = lock_stock(&mut transaction, orders, &existing).await?;
        let decisions = decide(orders, &existing, stock);
        if let Some(placed) = write(&mut transaction, orders, &decisions).await? {
            transaction.commit().await?;
            return Ok(outcomes(orders, &decisions, &placed));
        }
        // One of the keys was taken since they were looked up. What had been decided may be wrong for its neighbours,
        // too: the stock it would have taken is theirs. Its order is there to be found now.
        transaction.rollback().await?;
    }
}

fn key(order: &NewOrder) -> Option<Key<'_>> {
    order
        .idempotency_key
        .as_deref()
        .map(|key| (order.user_id.as_str(), key))
}

async fn find_keys<'a>(
    connection: &mut PgConnection,
    orders: &'a [NewOrder],
) -> Result<HashMap<Key<'a>, Existing>, sqlx::Error> {
    let (users, keys): (Vec<_>, Vec<_>) = orders.iter().filter_map(key).unzip();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<(String, String, Vec<u8>, i64, String)> = sqlx::query_as(FIND_KEYS)
        .bind(&users)
        .bind(&keys)
        .fetch_all(connection)
        .await?;
    let mut found = HashMap::new();
    for (user, key, request_hash, order_id, correlation_id) in rows {
        found.insert(
            (user, key),
            Existing {
                request_hash,
                receipt: Receipt {
                    order_id,
                    correlation_id,
                },
            },
        );
    }
    let taken = orders.iter().filter_map(key).filter_map(|(user, key)| {
        let existing = found.get(&(user.to_owned(), key.to_owned()))?;
        Some(((user, key), existing.clone()))
    });
    Ok(taken.collect())
}

/// The stock of the SKUs that are needed, which nobody else can change until the transaction ends.
async fn lock_stock(
    connection: &mut PgConnection,
    orders: &[NewOrder],
    existing: &HashMap<Key<'_>, Existing>,
) -> Result<HashMap<i64, i64>, sqlx::Error> {
    let open = orders
        .iter()
        .filter(|order| key(order).is_none_or(|key| !existing.contains_key(&key)));
    let skus: Vec<_> = open.map(|order| order.sku_id).collect();
    if skus.is_empty() {
        return Ok(HashMap::new());
    }
    let rows: Vec<(i64, i64)> = sqlx::query_as(LOCK_STOCK)
        .bind(&skus)
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().collect())
}

/// Takes the orders one after the other.
fn decide(
    orders: &[NewOrder],
    existing: &HashMap<Key<'_>, Existing>,
    mut stock: HashMap<i64, i64>,
) -> Vec<Decision> {
    let mut placed_keys: HashMap<Key<'_>, usize> = HashMap::new();
    let mut decisions = Vec::with_capacity(orders.len());
    for (index, order) in orders.iter().enumerate() {
        let key = key(order);
        if let Some(existing) = key.and_then(|key| existing.get(&key)) {
            let same = existing.request_hash == order.request_hash();
            let outcome = if same {
                Outcome::Replayed(existing.receipt.clone())
            } else {
                Outcome::KeyReused
            };
            decisions.push(Decision::Settled(outcome));
            continue;
        }
        if let Some(&first) = key.and_then(|key| placed_keys.get(&key)) {
            let same = orders[first].request_hash() == order.request_hash();
            decisions.push(if same {
                Decision::Repeats(first)
            } else {
                Decision::Settled(Outcome::KeyReused)
            });
            continue;
        }
        decisions.push(match stock.get_mut(&order.sku_id) {
            None => Decision::Settled(Outcome::UnknownSku),
            Some(stock) if *stock < i64::from(order.quantity) => {
                Decision::Settled(Outcome::OutOfStock { available: *stock })
            }
            Some(stock) => {
                *stock -= i64::from(order.quantity);
                if let Some(key) = key {
                    placed_keys.insert(key, index);
                }
                Decision::Place
            }
        });
    }
    decisions
}

/// Writes what is to be placed and gives the new order ids, in order; `None` where a key was taken meanwhile.
async fn write(
    connection: &mut PgConnection,
    orders: &[NewOrder],
    decisions: &[Decision],
) -> Result<Option<Vec<i64>>, sqlx::Error> {
    let placed: Vec<_> = orders
        .iter()
        .zip(decisions)
        .filter(|(_, decision)| **decision == Decision::Place)
        .map(|(order, _)| order)
        .collect();
    if placed.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let ids: Vec<i64> = sqlx::query_scalar(WRITE)
        .bind(column(&placed, |order| order.user_id.as_str()))
        .bind(column(&placed, |order| order.idempotency_key.as_deref()))
        .bind(column(&placed, |order| order.request_hash().to_vec()))
        .bind(column(&placed, |order| order.sku_id))
        .bind(column(&placed, |order| order.quantity))
        .bind(column(&placed, |order| order.correlation_id.as_str()))
        .bind(column(&placed, |_| Uuid::now_v7()))
        .bind(column(&placed, |order| order.traceparent.as_deref()))
        .fetch_all(connection)
        .await?;
    Ok((ids.len() == placed.len()).then_some(ids))
}

fn column<'a, T>(orders: &[&'a NewOrder], field: impl Fn(&'a NewOrder) -> T) -> Vec<T> {
    orders.iter().map(|order| field(order)).collect()
}

fn outcomes(orders: &[NewOrder], decisions: &[Decision], placed: &[i64]) -> Vec<Outcome> {
    let mut ids = placed.iter();
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(orders.len());
    for (order, decision) in orders.iter().zip(decisions) {
        let outcome = match decision {
            Decision::Settled(outcome) => outcome.clone(),
            Decision::Repeats(first) => match &outcomes[*first] {
                Outcome::Placed(receipt) => Outcome::Replayed(receipt.clone()),
                other => other.clone(),
            },
            Decision::Place => {
                let order_id = ids.next().copied().unwrap_or_default();
                Outcome::Placed(Receipt {
                    order_id,
                    correlation_id: order.correlation_id.clone(),
                })
            }
        };
        outcomes.push(outcome);
    }
    outcomes
}
