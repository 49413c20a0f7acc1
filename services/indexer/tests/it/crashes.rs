//! Indexers that end without a chance to commit.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use tokio::process::{Child, Command};

use crate::{
    events::{cancelled, created, expected},
    running::eventually,
    world::World,
};

#[tokio::test]
async fn an_indexer_that_ends_in_mid_stream_again_and_again_loses_nothing() -> Result<()> {
    let world = World::new().await?;
    let events: Vec<_> = (1..=6000).map(created).chain((1..=2000).map(cancelled)).collect();
    world.publish(&events).await?;
    for least in [500, 2000, 3500] {
        let indexer = world.start_with(&[("INDEXER_BULK_MAX_DOCUMENTS", "20")]).await?;
        wait_for_documents(&world, least).await?;
        indexer.crash().await;
    }
    let indexer = world.start().await?;
    world.wait_until_committed().await?;
    world.assert_holds(&expected(&events)).await?;
    assert_eq!(world.letters().await?.len(), 0);
    indexer.stop().await
}

#[tokio::test]
async fn a_process_that_is_killed_loses_nothing() -> Result<()> {
    let world = World::new().await?;
    let events: Vec<_> = (1..=6000).map(created).chain((1..=2000).map(cancelled)).collect();
    world.publish(&events).await?;
    let mut process = spawn(&world)?;
    wait_for_documents(&world, 500).await?;
    process.kill().await?;
    assert!(world.lag()? > 0, "it was done before it was killed");
    // The group notices only after the session timeout.
    let process = spawn(&world)?;
    world.wait_until_committed().await?;
    world.assert_holds(&expected(&events)).await?;
    assert_eq!(world.letters().await?.len(), 0);
    drop(process);
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_the_process_with_everything_committed() -> Result<()> {
    let world = World::new().await?;
    let mut process = spawn(&world)?;
    world.publish(&(1..=500).map(created).collect::<Vec<_>>()).await?;
    world.wait_until_searchable(500).await?;
    let pid = process.id().context("a process id")?;
    let sent = Command::new("kill")
        .arg("-TERM")
        .arg(pid.to_string())
        .status()
        .await?;
    assert!(sent.success());
    let ended = process.wait().await?;
    assert!(ended.success(), "{ended}");
    assert_eq!(world.lag()?, 0);
    Ok(())
}

/// The program, with small bulks.
pub(crate) fn spawn(world: &World) -> Result<Child> {
    spawn_with(world, &[("INDEXER_BULK_MAX_DOCUMENTS", "20")])
}

pub(crate) fn spawn_with(world: &World, more: &[(&str, &str)]) -> Result<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_indexer"));
    command.arg("serve").env_clear().envs(world.environment());
    command.envs(more.iter().copied()).stdin(Stdio::null());
    Ok(command.kill_on_drop(true).spawn()?)
}

pub(crate) async fn wait_for_documents(world: &World, least: u64) -> Result<()> {
    eventually(&format!("{least} documents"), async || {
        match world.searchable().await {
            Ok(count) if count >= least => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}
