//! Tells the relay that the outbox has new rows.
//!
//! A `NOTIFY` inside an order's transaction would make commits wait for each other, so it is sent afterwards, by one task,
//! for all orders of the last few milliseconds together. A lost one costs a poll interval of the relay.

use std::{sync::Arc, time::Duration};

use commerce_core::event::WAKE_CHANNEL;
use sqlx::PgPool;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

/// The least time between two notifications.
const INTERVAL: Duration = Duration::from_millis(5);

/// A handle for whoever places or changes orders; clones wake the same task.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// The outbox has new rows, and their transaction is committed.
    pub fn outbox_changed(&self) {
        self.0.notify_one();
    }

    /// Notifies the relay whenever there is something, until `stop`.
    pub async fn run(self, pool: PgPool, stop: CancellationToken) {
        let notify = async {
            loop {
                self.0.notified().await;
                let sent = sqlx::query("select pg_notify($1, '')")
                    .bind(WAKE_CHANNEL)
                    .execute(&pool)
                    .await;
                if let Err(error) = sent {
                    tracing::debug!(%error, "could not wake the relay; it polls");
                }
                sleep(INTERVAL).await;
            }
        };
        stop.run_until_cancelled(notify).await;
    }
}
