//! Being woken by PostgreSQL's NOTIFY.
//!
//! It only makes things faster: whoever waits for it also looks by itself from time to time. So a listener that has
//! lost its connection just tries again in its own time.

use std::{sync::Arc, time::Duration};

use sqlx::{PgPool, postgres::PgListener};
use tokio::{sync::Notify, time::sleep};
use tokio_util::task::AbortOnDropHandle;

const RETRY: Duration = Duration::from_secs(1);

/// A subscription to a channel.
#[derive(Debug)]
pub struct Wake {
    notify: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Wake {
    /// Listens until dropped.
    #[must_use]
    pub fn on(pool: PgPool, channel: &'static str) -> Self {
        let notify = Arc::new(Notify::new());
        let waker = Arc::clone(&notify);
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = listen(&pool, channel, &waker).await {
                    tracing::debug!(%error, channel, "listening for notifications");
                }
                sleep(RETRY).await;
            }
        });
        Self {
            notify,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Waits for a notification; any number that came since the last call count as one. Cancel safe.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }
}

async fn listen(pool: &PgPool, channel: &str, notify: &Notify) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(channel).await?;
    // What came before this was missed.
    notify.notify_one();
    while listener.try_recv().await?.is_some() {
        notify.notify_one();
    }
    Ok(())
}
