//! Replays that Redis remembers, so that a caller who repeats a request is answered also while PostgreSQL is slow or away.
//!
//! PostgreSQL decides which order a key led to; only what it has said is remembered, and only once a request was
//! repeated: the first time, there is nothing worth a write. For the same reason Redis is asked only when PostgreSQL does
//! not answer soon: a look into a batch's keys costs less than a call of Redis for each order. Losing any of it changes
//! nothing but the speed.
//!
//! Keys hold the schema's epoch (when it was created), so that an emptied or new database under the same Redis prefix is
//! not answered for with orders that it does not have.

use std::{
    fmt::Write as _,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use redis::pipe;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{NewOrder, Outcome, Receipt};
use crate::cache::Cache;

/// The replays of one pipeline.
#[derive(Debug)]
pub struct Replays {
    cache: Arc<Cache>,
    ttl: Duration,
    epoch: RwLock<Option<String>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    sku_id: i64,
    quantity: i32,
    order_id: i64,
    correlation_id: String,
}

impl Replays {
    /// What is remembered stays for `ttl`.
    pub fn new(cache: Arc<Cache>, ttl: Duration) -> Self {
        Self {
            cache,
            ttl,
            epoch: RwLock::default(),
        }
    }

    /// The schema was created at `epoch`; before this is known, nothing is remembered or recalled.
    pub fn set_epoch(&self, epoch: String) {
        let mut current = self.epoch.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref() != Some(&epoch) {
            *current = Some(epoch);
        }
    }

    /// What became of this request before, if Redis knows.
    pub async fn recall(&self, order: &NewOrder) -> Option<Outcome> {
        let (text,): (Option<String>,) = self.cache.ask(pipe().get(self.key(order)?)).await?;
        let first: Remembered = serde_json::from_str(&text?).ok()?;
        if (first.sku_id, first.quantity) != (order.sku_id, order.quantity) {
            return Some(Outcome::KeyReused);
        }
        Some(Outcome::Replayed(Receipt {
            order_id: first.order_id,
            correlation_id: first.correlation_id,
        }))
    }

    /// This request turned out to be a replay.
    pub async fn remember(&self, order: &NewOrder, receipt: &Receipt) {
        let first = Remembered {
            sku_id: order.sku_id,
            quantity: order.quantity,
            order_id: receipt.order_id,
            correlation_id: receipt.correlation_id.clone(),
        };
        if let (Some(key), Ok(text)) = (self.key(order), serde_json::to_string(&first)) {
            let seconds = self.ttl.as_secs().max(1);
            // Redis being away is no news to the caller.
            let _: Option<()> = self.cache.ask(pipe().set_ex(key, text, seconds).ignore()).await;
        }
    }

    /// Users and keys are hashed: the two could not be told apart otherwise, and are of no use to whoever reads Redis.
    fn key(&self, order: &NewOrder) -> Option<String> {
        let epoch = self.epoch.read().unwrap_or_else(PoisonError::into_inner);
        let mut hasher = Sha256::new();
        for part in [
            epoch.as_deref()?,
            order.user_id.as_str(),
            order.idempotency_key.as_deref()?,
        ] {
            hasher.update(part.len().to_le_bytes());
            hasher.update(part);
        }
        let mut key = format!("{}idempotency:", self.cache.prefix());
        for byte in hasher.finalize() {
            let _ = write!(key, "{byte:02x}");
        }
        Some(key)
    }
}
