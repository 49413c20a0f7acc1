//! A quick look at throughput: `cargo test --release -p commerce-relay -- --ignored throughput --nocapture`.

use anyhow::Result;
use commerce_core::testing::Postgres;
use tokio::time::Instant;

use crate::support::{World, eventually};

const BACKLOG: i32 = 200_000;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn throughput_of_a_backlog() -> Result<()> {
    let postgres = Postgres::start().await?;
    let world = World::on_postgres(&postgres).await?;
    world.commit_many(BACKLOG, BACKLOG).await?;
    let began = Instant::now();
    let relay = world.relay().await?;
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
    relay.stop().await?;
    assert_eq!(world.check().await?, 0);
    Ok(())
}
