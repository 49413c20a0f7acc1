//! Databases that were restored from a backup, or whose rows were copied.

use anyhow::{Result, ensure};
use commerce_core::testing::{Durability, Postgres};
use pretty_assertions::assert_eq;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::{TABLES, adopt, blocked, copy, goes_on, number, port, spend_ids};
use crate::support::{CANCELLED, CREATED, World, eventually, insert, status, too_large};

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_gone_on_with_only_when_somebody_accepts_what_is_lost() -> Result<()> {
    let server = Postgres::start().await?;
    let world = World::on_postgres(&server).await?;
    let relay = world.relay().await?;
    world.commit_many(300, 100).await?;
    world.all_sent().await?;
    relay.stop().await?;
    // A commit that waits for the disk takes those of the relay with it, which do not.
    world
        .pool
        .execute("insert into products (name) values ('a product')")
        .await?;
    server.kill()?;
    server.back_up()?;
    server.restart().await?;

    let relay = world.relay().await?;
    for order in 500..520 {
        world.commit(order, CREATED).await?;
    }
    world.all_sent().await?;
    relay.stop().await?;
    server.kill()?;
    server.restore()?;
    server.restart().await?;

    // These take the transaction ids and outbox ids of those that are lost.
    for order in 600..605 {
        world.commit(order, CREATED).await?;
    }
    let before = world.published().await?.len();
    let relay = world.relay().await?;
    let why = blocked(&relay).await?;
    assert!(why.contains("20 at the ends of its topics"), "{why}");
    assert!(why.contains("of order 519,"), "{why}");
    assert_eq!(world.count("NEW").await?, 5);
    assert_eq!(
        world.published().await?.len(),
        before,
        "it has published something"
    );
    // New orders get other ids than the lost ones had.
    let next = number(&world.pool, "select nextval('orders_order_id_seq')").await?;
    assert_eq!(next, 1_000_520);

    let (done, told) = adopt(&world.url, false).await?;
    assert!(!done && told.contains("accept that these 20 events"), "{told}");
    assert_eq!(
        number(
            &world.pool,
            "select count(*) from outbox_lost where accepted_at is null"
        )
        .await?,
        20
    );
    assert!(status(relay.admin).await?["blocked"].is_string());
    let (done, told) = adopt(&world.url, true).await?;
    assert!(done && told.contains("Accepted 20 lost events."), "{told}");
    relay.active().await?;
    world.all_sent().await?;
    relay.stop().await?;
    let published = world.published().await?;
    for order in 600..605 {
        let key = order.to_string();
        assert!(
            published.iter().any(|message| message.key == key),
            "order {key} is lost"
        );
    }

    goes_on(&world).await?;
    let (done, told) = adopt(&world.url, false).await?;
    assert!(done && told.contains("nothing is in the way"), "{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_restored_where_transaction_ids_are_lower_is_adopted_without_a_loss() -> Result<()> {
    restored_dump(3_000, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_restored_where_transaction_ids_are_higher_is_adopted_without_a_loss() -> Result<()> {
    restored_dump(0, 3_000).await
}

/// Two clusters, of which either may have handed out more transaction ids.
async fn restored_dump(there_first: u32, here_first: u32) -> Result<()> {
    let (old, new) = tokio::try_join!(
        Postgres::start_with(Durability::Process),
        Postgres::start_with(Durability::Process)
    )?;
    let there = World::on_postgres(&old).await?;
    spend_ids(&there, there_first).await?;
    let relay = there.relay().await?;
    there.commit_many(60, 6).await?;
    let mut transaction = there.pool.begin().await?;
    insert(&mut transaction, 1_000, CREATED, &too_large()).await?;
    insert(&mut transaction, 1_000, CREATED, "").await?;
    transaction.commit().await?;
    eventually("one is parked, and one behind it", async || {
        let parked = number(&there.pool, "select count(*) from outbox_parked").await;
        parked.is_ok_and(|parked| parked == 2) && there.count("SENT").await.is_ok_and(|sent| sent == 60)
    })
    .await?;
    relay.stop().await?;
    for order in 0..6 {
        there.commit(order, CANCELLED).await?;
    }

    let mut here = World::on_postgres(&new).await?;
    here.kafka = there.kafka.clone();
    spend_ids(&here, here_first).await?;
    copy(&there, &here, &TABLES).await?;
    here.pool
        .execute("select setval('outbox_log_id', (select max(outbox_id) from outbox_log))")
        .await?;
    // What was published after the dump does not count as published in it.
    let relay = there.relay().await?;
    eventually("the rest is SENT", async || {
        there.count("SENT").await.is_ok_and(|sent| sent == 66)
    })
    .await?;
    relay.stop().await?;
    for order in 0..4 {
        here.commit(order, CREATED).await?;
    }
    // The other server's clock may have been ahead.
    here.pool
        .execute("update relay_checkpoint set updated_at = now() + interval '1 hour'")
        .await?;
    let relay = here.relay().await?;
    let why = blocked(&relay).await?;
    assert!(why.contains("copied from another PostgreSQL server"), "{why}");
    assert_eq!(here.published().await?.len(), 66);
    let (done, told) = adopt(&here.url, false).await?;
    assert!(
        !done && told.contains("publish 10 events, and take 62 for published"),
        "{told}"
    );

    // Whoever writes meanwhile is waited for.
    let mut writer = here.pool.begin().await?;
    insert(&mut writer, 2, CREATED, "").await?;
    let url = here.url.clone();
    let adopting = tokio::spawn(async move { adopt(&url, true).await });
    eventually("it waits for the writer", async || {
        let waiting = "select count(*) from pg_locks where relation = 'outbox_log'::regclass and not granted";
        number(&here.pool, waiting)
            .await
            .is_ok_and(|waiting| waiting == 1)
    })
    .await?;
    writer.commit().await?;
    let (done, told) = adopting.await??;
    assert!(done && told.contains("11 events are to be published"), "{told}");

    eventually("all but the parked ones are SENT", async || {
        here.count("SENT").await.is_ok_and(|sent| sent == 71)
    })
    .await?;
    assert_eq!((here.count("FAILED").await?, here.count("NEW").await?), (1, 1));
    here.pool
        .execute("update outbox_log set payload = '{}' where length(payload::text) > 1000000")
        .await?;
    here.all_sent().await?;
    relay.stop().await?;
    // Only what was published after the dump is published again.
    assert_eq!(here.check().await?, 6);
    goes_on(&here).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_logical_replication_writes_is_left_alone_until_that_ends() -> Result<()> {
    let (old, new) = tokio::try_join!(Postgres::start(), Postgres::start_with(Durability::Process))?;
    let mut admin = PgConnection::connect(&old.admin_url()).await?;
    admin.execute("alter system set wal_level = logical").await?;
    old.restart().await?;
    let there = World::on_postgres(&old).await?;
    spend_ids(&there, 3_000).await?;
    let relay = there.relay().await?;
    there.commit_many(60, 6).await?;
    there.all_sent().await?;
    relay.stop().await?;
    let publication = "create publication events for table outbox_log with (publish = 'insert', publish_via_partition_root)";
    there.pool.execute(publication).await?;

    let mut here = World::on_postgres(&new).await?;
    here.kafka = there.kafka.clone();
    let superuser = format!("{}commerce", new.admin_url().trim_end_matches("postgres"));
    let mut superuser = PgConnection::connect(&superuser).await?;
    let subscribe = format!(
        "create subscription copies connection 'host=127.0.0.1 port={} user=postgres dbname=commerce'
         publication events",
        port(&old)?
    );
    superuser.execute(AssertSqlSafe(subscribe)).await?;
    there.commit(1, CANCELLED).await?;
    eventually("all rows have come over", async || {
        let rows = number(&here.pool, "select count(*) from outbox_log").await;
        rows.is_ok_and(|rows| rows == 61)
    })
    .await?;
    let relay = here.relay().await?;
    let why = blocked(&relay).await?;
    assert!(why.contains("(subscription copies)"), "{why}");
    let (done, told) = adopt(&here.url, true).await?;
    assert!(!done && told.contains("drop the subscription"), "{told}");

    superuser.execute("drop subscription copies").await?;
    eventually("only the ids are in the way", async || {
        let status = status(relay.admin).await.unwrap_or_default();
        let why = status["blocked"].as_str().unwrap_or_default();
        why.contains("the outbox has rows of transaction") && !why.contains("subscription")
    })
    .await?;
    let (done, _) = adopt(&here.url, true).await?;
    ensure!(done, "not adopted");
    here.all_sent().await?;
    relay.stop().await?;
    assert_eq!(
        here.check().await?,
        60,
        "this database can't know what was published from the other"
    );
    // The sequence had stayed behind.
    assert!(here.commit(1, CREATED).await? > 61);
    goes_on(&here).await
}
