//! How long to wait before trying again.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// Delays that grow from about 0.1 s to about 2 s, with jitter and without end.
#[derive(Debug)]
pub(crate) struct Backoff(ExponentialBackoff);

const LONGEST: Duration = Duration::from_secs(2);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(Self::delays())
    }

    /// Starts over: what failed has succeeded since.
    pub(crate) fn reset(&mut self) {
        self.0 = Self::delays();
    }

    pub(crate) fn next_delay(&mut self) -> Duration {
        self.0.next().unwrap_or(LONGEST)
    }

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }

    fn delays() -> ExponentialBackoff {
        ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(LONGEST / 2)
            .with_jitter()
            .without_max_times()
            .build()
    }
}
