//! Clocks, epochs, and rows that are frozen.

use anyhow::Result;
use pretty_assertions::assert_eq;
use sqlx::Executor as _;

use crate::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn frozen_rows_keep_their_transactions() -> Result<()> {
    let world = World::new().await?;
    for round in 1..=3 {
        world.commit_many(10, 10).await?;
        world
            .pool
            .execute("vacuum (freeze) outbox_log, relay_checkpoint, outbox_history")
            .await?;
        assert_eq!(world.count("NEW").await?, 10, "round {round}");
        let relay = world.relay().await?;
        world.all_sent().await?;
        relay.stop().await?;
        world
            .pool
            .execute("vacuum (freeze) outbox_log, relay_checkpoint, outbox_history")
            .await?;
    }
    assert_eq!(world.check().await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_holds_nothing_up() -> Result<()> {
    const AT: &str = "
        insert into outbox_log (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload,
                                correlation_id, created_at)
        values (gen_random_uuid(), 'order', '1', 1, 'order.created', '{}', 'c', now() + make_interval(hours => $1))";
    let world = World::new().await?;
    world
        .pool
        .execute("update relay_checkpoint set holder = 'gone', lease_expires_at = now() + interval '1 year'")
        .await?;
    let relay = world.relay().await?;
    relay.active().await?;
    for hours in [0, -1_000, 1_000, -1, 30, 0] {
        sqlx::query(AT).bind(hours).execute(&world.pool).await?;
        world.all_sent().await?;
    }
    relay.stop().await?;
    assert_eq!(world.check().await?, 0);
    Ok(())
}

/// `xid8` has the epoch in its upper half, in columns and in snapshots alike: there is nothing that wraps around.
#[tokio::test]
async fn windows_reach_over_the_end_of_an_epoch() -> Result<()> {
    const WINDOW: &str = "
        select array_agg(id::text order by id)
          from unnest('{4294967290, 4294967294, 4294967295, 4294967299, 4294967300, 4294967301, 4294967303}'::xid8[]) id
         where (id >= pg_snapshot_xmax($1::pg_snapshot) or id = any (array(select pg_snapshot_xip($1::pg_snapshot))))
           and pg_visible_in_snapshot(id, $2::pg_snapshot)";
    let world = World::new().await?;
    // 4294967294 was running before, 4294967300 is running now. The first one of an epoch is its fourth.
    let (previous, current) = (
        "4294967294:4294967299:4294967294",
        "4294967300:4294967302:4294967300",
    );
    let window: Vec<String> = sqlx::query_scalar(WINDOW)
        .bind(previous)
        .bind(current)
        .fetch_one(&world.pool)
        .await?;
    assert_eq!(window, ["4294967294", "4294967299", "4294967301"]);
    Ok(())
}
