//! A quick look at throughput and memory:
//! `cargo test --release -p commerce-indexer -- --ignored throughput --nocapture`.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use tokio::{process::Command, time::Instant};

use crate::{events::created, running::eventually, world::World};

const BACKLOG: u32 = 100_000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn throughput_of_a_backlog() -> Result<()> {
    let world = World::new().await?;
    let events: Vec<_> = (1..=u64::from(BACKLOG)).map(created).collect();
    world.publish(&events).await?;
    let began = Instant::now();
    let mut process = Command::new(env!("CARGO_BIN_EXE_indexer"))
        .arg("serve")
        .envs(world.environment())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let searchable = async || world.searchable().await.unwrap_or_default();
    eventually("a first document", async || {
        if searchable().await > 0 {
            Ok(())
        } else {
            Err(String::new())
        }
    })
    .await?;
    let started = began.elapsed().as_secs_f64();
    world.wait_until_searchable(u64::from(BACKLOG)).await?;
    let seconds = began.elapsed().as_secs_f64() - started;
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id().context("a process id")?))?;
    let memory = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .context("VmHWM")?;
    println!(
        "{BACKLOG} events in {seconds:.2} s: {:.0} events/s",
        f64::from(BACKLOG) / seconds
    );
    println!("the first of them after {started:.2} s; {memory}");
    process.kill().await?;
    Ok(())
}
