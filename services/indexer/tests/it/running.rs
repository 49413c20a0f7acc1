//! An indexer that runs in the test's process, and waiting for what it does.

use std::{future::Future, time::Duration};

use anyhow::{Context as _, Result, bail};
use commerce_indexer::{Config, Indexer};
use serde_json::Value;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// An indexer in this process. It crashes, without a chance to commit, when it is dropped.
pub(crate) struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), commerce_indexer::Error>>,
    admin: String,
}

impl Running {
    pub(crate) async fn start(config: Config) -> Result<Self> {
        commerce_core::telemetry::init(&config.log);
        let indexer = Indexer::bind(config).await?;
        let admin = format!("http://{}", indexer.admin_addr()?);
        let stop = CancellationToken::new();
        let task = tokio::spawn(indexer.run(stop.clone()));
        Ok(Self { stop, task, admin })
    }

    /// Stops it as SIGTERM does.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        timeout(PATIENCE, &mut self.task)
            .await
            .context("stopping the indexer")???;
        Ok(())
    }

    /// Ends it where it is.
    pub(crate) async fn crash(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    pub(crate) async fn status(&self) -> Result<Value> {
        Ok(reqwest::get(format!("{}/status", self.admin))
            .await?
            .json()
            .await?)
    }

    /// Status code and body of `/readyz`.
    pub(crate) async fn readiness(&self) -> Result<(u16, Value)> {
        let answer = reqwest::get(format!("{}/readyz", self.admin)).await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// Waits until the check fails with a message that contains `text`.
    pub(crate) async fn wait_until_failing(&self, check: &str, text: &str) -> Result<()> {
        eventually(&format!("{check} to fail with {text:?}"), async || {
            let (_, body) = self.readiness().await.map_err(|error| error.to_string())?;
            let message = body["checks"][check]["message"].as_str().unwrap_or("");
            if message.contains(text) {
                Ok(())
            } else {
                Err(body.to_string())
            }
        })
        .await
    }

    pub(crate) async fn wait_until_ready(&self) -> Result<()> {
        eventually("readiness", async || match self.readiness().await {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// Waits until it has been given partitions.
    pub(crate) async fn wait_until_assigned(&self) -> Result<usize> {
        eventually("assigned partitions", async || {
            let status = self.status().await.map_err(|error| error.to_string())?;
            match status["partitions"].as_array().map_or(0, Vec::len) {
                0 => Err(status.to_string()),
                count => Ok(count),
            }
        })
        .await
    }

    /// The value of a metric that counts, by its name with its labels as they are printed.
    pub(crate) async fn metric(&self, name: &str) -> Result<u64> {
        let text = reqwest::get(format!("{}/metrics", self.admin))
            .await?
            .text()
            .await?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let Some(value) = line else {
            bail!("no metric {name} in\n{text}")
        };
        Ok(value.parse()?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until `probe` succeeds; its last error says what was the matter.
pub(crate) async fn eventually<T, F>(what: &str, mut probe: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T, String>>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        match probe().await {
            Ok(found) => return Ok(found),
            Err(problem) if Instant::now() > until => bail!("waited in vain for {what}: {problem}"),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}
