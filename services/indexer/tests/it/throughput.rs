//! A quick look at throughput: `cargo test --release -p commerce-indexer -- --ignored throughput --nocapture`.

use anyhow::Result;
use tokio::time::Instant;

use crate::{events::created, running::eventually, world::World};

const BACKLOG: u32 = 100_000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn throughput_of_a_backlog() -> Result<()> {
    let world = World::new().await?;
    world
        .publish(&(1..=u64::from(BACKLOG)).map(created).collect::<Vec<_>>())
        .await?;
    let indexer = world.start().await?;
    indexer.wait_until_ready().await?;
    let began = Instant::now();
    eventually("all documents", async || {
        let count = indexer
            .metric("commerce_indexer_events_total{outcome=\"indexed\"}")
            .await
            .unwrap_or_default();
        if count >= u64::from(BACKLOG) {
            Ok(())
        } else {
            Err(format!("{count} indexed"))
        }
    })
    .await?;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{BACKLOG} events in {seconds:.2} s: {:.0} events/s",
        f64::from(BACKLOG) / seconds
    );
    world.wait_until_searchable(u64::from(BACKLOG)).await?;
    indexer.stop().await
}
