//! A quick look at what the relay costs:
//! `cargo test --release -p commerce-relay --test it -- --ignored --nocapture throughput`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use commerce_core::testing::Postgres;
use tokio::time::{Instant, sleep};

use crate::support::{Process, World, eventually};

const BACKLOG: i32 = 200_000;
const IDLE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn throughput_of_a_backlog_and_cost_of_idling() -> Result<()> {
    let postgres = Postgres::start().await?;
    let world = World::on_postgres(&postgres).await?;
    world.commit_many(BACKLOG, BACKLOG).await?;
    let began = Instant::now();
    let relay = world.process().await?;
    // Cheaper than asking the view.
    let done = "select window_snapshot is null and snapshot::text <> '1:1:' from relay_checkpoint";
    eventually("the window is finished", async || {
        sqlx::query_scalar::<_, bool>(done)
            .fetch_one(&world.pool)
            .await
            .unwrap_or(false)
    })
    .await?;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{BACKLOG} events in {seconds:.2} s: {:.0} events/s",
        f64::from(BACKLOG) / seconds
    );
    let busy = cpu_seconds(&relay)?;
    println!(
        "CPU {busy:.2} s, {:.1} s per million events; peak RSS {}",
        busy * 1e6 / f64::from(BACKLOG),
        peak_rss(&relay)?
    );

    let transactions = async || {
        let count = "select xact_commit from pg_stat_database where datname = current_database()";
        sqlx::query_scalar::<_, i64>(count).fetch_one(&world.pool).await
    };
    let before = transactions().await?;
    sleep(IDLE).await;
    let idle = cpu_seconds(&relay)? - busy;
    let transactions = (transactions().await? - before) / i64::try_from(IDLE.as_secs())?;
    println!(
        "idle: {:.2} % of a CPU, {transactions} transactions/s",
        idle * 100.0 / IDLE.as_secs_f64()
    );
    assert_eq!(world.check().await?, 0);
    Ok(())
}

/// User and system time. Linux counts it in hundredths of a second.
fn cpu_seconds(relay: &Process) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", relay.id()))?;
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = |index: usize| -> Result<f64> { Ok(fields.get(index).context("no such field")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

fn peak_rss(relay: &Process) -> Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", relay.id()))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(peak.context("no VmHWM")?.trim().to_owned())
}
