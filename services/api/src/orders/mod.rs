//! Orders: what one is, how it is placed and cancelled, and how it is read.

pub mod cancel;
pub mod document;
pub mod intake;
pub mod place;
pub mod read;
pub mod replay;
pub mod timeline;

use sha2::{Digest as _, Sha256};

/// An order that somebody wants to place; every field is in its range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOrder {
    /// 1 to 128 characters.
    pub user_id: String,
    /// 1 to 255 visible ASCII characters.
    pub idempotency_key: Option<String>,
    pub sku_id: i64,
    /// At least 1.
    pub quantity: i32,
    /// 1 to 80 visible ASCII characters.
    pub correlation_id: String,
    /// The caller's W3C trace context, which the event carries on.
    pub traceparent: Option<String>,
}

impl NewOrder {
    /// What two requests with the same key must have in common to be one and the same. The user is part of the key.
    #[must_use]
    pub fn request_hash(&self) -> [u8; 32] {
        Sha256::digest(format!("{}:{}", self.sku_id, self.quantity)).into()
    }
}

/// What the answer to a placed order is made of. Together with the status, which is always `CREATED` in that answer, it
/// gives the same bytes each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub order_id: i64,
    /// Of the request that placed the order.
    pub correlation_id: String,
}

/// What became of one new order. Only [`Outcome::Placed`] has changed anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Placed(Receipt),
    /// The key had led to this order before.
    Replayed(Receipt),
    /// The key had led to an order of another SKU or quantity.
    KeyReused,
    UnknownSku,
    OutOfStock {
        available: i64,
    },
}
