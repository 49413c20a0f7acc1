//! Crashes, two relays, and the fencing token.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::support::{CREATED, World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_point_loses_nothing() -> Result<()> {
    let world = World::new().await?;
    let mut config = world.config()?;
    config.batch_size = 200;
    world.commit_many(20_000, 20_000).await?;
    let mut crashes = 0;
    while world.count("NEW").await? > 0 {
        let relay = world.relay_with(config.clone()).await?;
        relay.active().await?;
        let sent = world.count("SENT").await?;
        eventually("it gets a little further", async || {
            world
                .count("SENT")
                .await
                .is_ok_and(|now| now > sent || now == 20_000)
        })
        .await?;
        relay.crash().await;
        // Nobody has to wait for the lease of a relay that is known to be dead.
        sqlx::query("update relay_checkpoint set lease_expires_at = null")
            .execute(&world.pool)
            .await?;
        crashes += 1;
    }
    let duplicates = world.check().await?;
    println!("{crashes} crashes, {duplicates} duplicates");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_within_three_seconds_of_a_kill() -> Result<()> {
    let world = World::new().await?;
    let first = world.process().await?;
    eventually("the first one is active", async || {
        world.lease().await.is_ok_and(|(token, held)| token == 1 && held)
    })
    .await?;
    let second = world.relay().await?;
    second.standby().await?;
    world.commit_many(500, 50).await?;
    world.all_sent().await?;

    first.kill()?;
    let killed = Instant::now();
    world.commit(7, CREATED).await?;
    eventually("the second one holds the lease", async || {
        world.lease().await.is_ok_and(|(token, _)| token == 2)
    })
    .await?;
    let taken = killed.elapsed();
    world.all_sent().await?;
    println!(
        "takeover {taken:?}, published {:?} after the kill",
        killed.elapsed()
    );
    assert!(taken < Duration::from_secs(3), "takeover took {taken:?}");
    world.check().await?;
    second.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_drains_and_hands_over_at_once() -> Result<()> {
    let world = World::new().await?;
    let first = world.relay().await?;
    first.active().await?;
    let second = world.relay().await?;
    second.standby().await?;
    world.commit_many(20_000, 20_000).await?;
    eventually("it is in the middle of it", async || {
        world.count("SENT").await.is_ok_and(|sent| sent > 0)
    })
    .await?;

    first.stop().await?;
    let stopped = Instant::now();
    eventually("the second one holds the lease", async || {
        world.lease().await.is_ok_and(|(token, held)| token == 2 && held)
    })
    .await?;
    let handed = stopped.elapsed();
    assert!(handed < Duration::from_secs(1), "the handover took {handed:?}");
    world.all_sent().await?;
    assert_eq!(world.check().await?, 0, "a graceful handover repeats nothing");
    second.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_was_paused_can_move_nothing_any_more() -> Result<()> {
    const CHECKPOINT: &str = "select token || ' ' || snapshot || ' ' || position from relay_checkpoint";
    let world = World::new().await?;
    let paused = world.process().await?;
    eventually("it is active", async || {
        world.lease().await.is_ok_and(|(token, held)| token == 1 && held)
    })
    .await?;
    world.commit_many(30_000, 30_000).await?;
    eventually("it is in the middle of it", async || {
        world.count("SENT").await.is_ok_and(|sent| sent > 0)
    })
    .await?;
    paused.signal("STOP")?;
    let second = world.relay().await?;
    second.active().await?;
    world.commit(1, CREATED).await?;
    world.all_sent().await?;
    let before: String = sqlx::query_scalar(CHECKPOINT).fetch_one(&world.pool).await?;

    paused.signal("CONT")?;
    eventually("it has noticed", async || {
        crate::support::status(paused.admin)
            .await
            .is_ok_and(|status| status["state"] == "standby")
    })
    .await?;
    let after: String = sqlx::query_scalar(CHECKPOINT).fetch_one(&world.pool).await?;
    assert_eq!(before, after);
    let duplicates = world.check().await?;
    println!("{duplicates} duplicates");
    second.stop().await
}
