//! One token that is cancelled when the process is asked to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token cancelled by SIGTERM or SIGINT. A second signal ends the process at once.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = token.clone();
    tokio::spawn(async move {
        for round in 0_u8.. {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            if round > 0 {
                tracing::warn!("second signal: stopping without draining");
                std::process::exit(130);
            }
            tracing::info!("stopping: draining what is under way");
            stop.cancel();
        }
    });
    Ok(token)
}
