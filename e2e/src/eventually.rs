//! Waiting for a condition, with a bound: what the tests do in place of sleeping.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, timeout};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// A look that takes longer than this counts as failed, so that a hanging connection can't outlast the bound by much.
const LOOK: Duration = Duration::from_secs(15);

/// Tries until `attempt` succeeds, and gives its value. When `bound` is over, the error is the last attempt's.
pub async fn eventually<T>(
    what: &str,
    bound: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let until = Instant::now() + bound;
    loop {
        let outcome = match timeout(LOOK, attempt()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow!("no answer within {LOOK:?}")),
        };
        match outcome {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= until => {
                return Err(error.context(format!("{what}: not within {} s", bound.as_secs_f32())));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Looks again and again for as long as `span`, and fails with the first look that does.
pub async fn throughout(what: &str, span: Duration, mut look: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < span {
        if let Err(error) = look().await {
            return Err(error.context(format!(
                "{what}: no longer after {} s",
                start.elapsed().as_secs_f32()
            )));
        }
        sleep(PAUSE).await;
    }
    Ok(())
}
