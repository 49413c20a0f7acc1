//! `pgbench`, with the writes of an order in a transaction of its own.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::cpu;

/// The writes of one order as an application sends them one after the other.
pub const TRANSACTION: &str = include_str!("../load/order.sql");
/// The same in a single statement, which saves the ways there and back.
pub const STATEMENT: &str = include_str!("../load/order-statement.sql");

/// What it counted.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub transactions_per_second: f64,
    pub p50: Duration,
    pub p99: Duration,
    pub cpu: Duration,
}

/// Runs `script` with prepared statements, from `clients` connections.
pub async fn run(url: &str, script: &str, clients: u32, duration: Duration, skus: u32) -> Result<Load> {
    let folder = std::env::temp_dir().join(format!("commerce-bench-{}", std::process::id()));
    tokio::fs::create_dir_all(&folder).await?;
    let result = measure(url, script, clients, duration, skus, &folder).await;
    tokio::fs::remove_dir_all(&folder).await?;
    result
}

async fn measure(
    url: &str,
    script: &str,
    clients: u32,
    duration: Duration,
    skus: u32,
    folder: &std::path::Path,
) -> Result<Load> {
    let mut command = Command::new("pgbench");
    command
        .args([
            "--no-vacuum",
            "--protocol=prepared",
            "--jobs=2",
            "--log",
            "--sampling-rate=0.2",
        ])
        .args([
            format!("--client={clients}"),
            format!("--time={}", duration.as_secs()),
        ])
        .args([
            format!("--define=skus={skus}"),
            "--file=/dev/stdin".to_owned(),
            url.to_owned(),
        ])
        .current_dir(folder)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().context("starting pgbench")?;
    let mut input = child.stdin.take().context("pgbench has no input")?;
    input.write_all(script.as_bytes()).await?;
    drop(input);
    let before = cpu::of_ended_children(std::process::id())?;
    let output = child.wait_with_output().await?;
    let cpu = cpu::of_ended_children(std::process::id())?.saturating_sub(before);
    let printed = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "pgbench: {printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let rate = printed.lines().find_map(|line| {
        line.strip_prefix("tps = ")?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    });
    let mut latencies = Vec::new();
    let mut files = tokio::fs::read_dir(folder).await?;
    while let Some(file) = files.next_entry().await? {
        // Client, transaction, latency in microseconds, …
        let log = tokio::fs::read_to_string(file.path()).await?;
        latencies.extend(
            log.lines()
                .filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok()),
        );
    }
    latencies.sort_unstable();
    let percentile = |percent: usize| {
        let place = (latencies.len() * percent / 100).min(latencies.len().saturating_sub(1));
        Duration::from_micros(latencies.get(place).copied().unwrap_or_default())
    };
    Ok(Load {
        transactions_per_second: rate.with_context(|| format!("pgbench printed no rate:\n{printed}"))?,
        p50: percentile(50),
        p99: percentile(99),
        cpu,
    })
}
