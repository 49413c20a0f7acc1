//! `wrk`, the load generator that costs least; one thread of it.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

/// What it counted.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub requests: f64,
    pub seconds: f64,
    pub p50: Duration,
    pub p99: Duration,
    /// Of wrk itself.
    pub cpu: Duration,
}

impl Load {
    pub fn rate(&self) -> f64 {
        self.requests / self.seconds
    }
}

/// Loads `url`, as the script says. A request that fails, or is refused, fails the whole.
pub async fn run(
    url: &str,
    script: &Path,
    connections: u32,
    duration: Duration,
    arguments: &[&str],
) -> Result<Load> {
    let mut command = Command::new("wrk");
    command
        .args([
            "--threads",
            "1",
            "--timeout",
            "30s",
            "--connections",
            &connections.to_string(),
        ])
        .args(["--duration", &format!("{}s", duration.as_secs()), "--script"])
        .arg(script)
        .args([url, "--"])
        .args(arguments)
        // The scripts share a file beside them.
        .current_dir(script.parent().context("the script has no folder")?)
        .kill_on_drop(true);
    let output = command
        .output()
        .await
        .context("starting wrk (Debian: apt-get install wrk)")?;
    let printed = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "wrk: {}{printed}",
        String::from_utf8_lossy(&output.stderr)
    );
    // The scripts print one line of numbers: requests, failures, microseconds of the run, p50, p99; CPU milliseconds.
    let line = printed.lines().find_map(|line| line.strip_prefix("result "));
    let numbers: Vec<f64> = line
        .with_context(|| format!("wrk printed no result:\n{printed}"))?
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    let [requests, failures, microseconds, p50, p99, cpu] = numbers[..] else {
        anyhow::bail!("wrk printed another result than expected:\n{printed}");
    };
    ensure!(
        failures == 0.0,
        "{failures} of {requests} requests failed:\n{printed}"
    );
    Ok(Load {
        requests,
        seconds: microseconds / 1e6,
        p50: Duration::from_secs_f64(p50 / 1e6),
        p99: Duration::from_secs_f64(p99 / 1e6),
        cpu: Duration::from_secs_f64(cpu / 1e3),
    })
}
