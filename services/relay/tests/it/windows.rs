//! What is published, whatever the transactions do.

use anyhow::Result;
use commerce_core::event::header;
use pretty_assertions::assert_eq;
use sqlx::{Connection as _, Executor as _};

use crate::support::{CANCELLED, CREATED, World, eventually, insert};

#[tokio::test]
async fn a_message_has_the_order_as_key_the_payload_as_value_and_cloudevents_headers() -> Result<()> {
    let world = World::new().await?;
    let relay = world.relay().await?;
    world.commit(42, CREATED).await?;
    world.all_sent().await?;
    relay.stop().await?;

    let published = world.published().await?;
    let [message] = published.as_slice() else {
        panic!("not one message: {published:?}")
    };
    assert_eq!(message.topic, world.kafka.topic(CREATED));
    assert_eq!(message.key, "42");
    assert_eq!(message.payload, r#"{"filler": "", "orderId": "42"}"#);
    let row: (String, String, String) = sqlx::query_as(
        "select event_id::text, to_char(created_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),
                xid || ':' || outbox_id
           from outbox_log",
    )
    .fetch_one(&world.pool)
    .await?;
    let expected = [
        (header::ID, row.0.as_str()),
        (header::SOURCE, "/commerce-pipeline/orders"),
        (header::SPEC_VERSION, "1.0"),
        (header::SUBJECT, "42"),
        (header::TIME, row.1.as_str()),
        (header::TYPE, CREATED),
        (header::CONTENT_TYPE, "application/json"),
        (header::CORRELATION_ID, "test-1"),
        (header::OUTBOX_POSITION, row.2.as_str()),
        (
            header::TRACEPARENT,
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
    ];
    let headers: Vec<_> = message
        .headers
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    assert_eq!(headers, expected);
    Ok(())
}

#[tokio::test]
async fn what_is_committed_is_published_and_what_is_aborted_is_not() -> Result<()> {
    let world = World::new().await?;
    let relay = world.relay().await?;
    for order in 0..50 {
        let mut transaction = world.pool.begin().await?;
        insert(&mut transaction, order, CREATED, "").await?;
        if order % 3 == 0 {
            transaction.rollback().await?;
        } else {
            transaction.commit().await?;
            world.commit(order, CANCELLED).await?;
        }
    }
    world.all_sent().await?;
    assert_eq!(world.check().await?, 0);
    relay.stop().await
}

#[tokio::test]
async fn a_transaction_that_took_its_id_first_and_commits_last_is_not_overlooked() -> Result<()> {
    let world = World::new().await?;
    let relay = world.relay().await?;
    let mut early = world.pool.begin().await?;
    let first = insert(&mut early, 1, CREATED, "").await?;
    let second = world.commit(2, CREATED).await?;
    assert!(first < second);
    eventually("the later one is SENT", async || {
        world.count("SENT").await.is_ok_and(|sent| sent == 1)
    })
    .await?;
    early.commit().await?;
    world.all_sent().await?;
    assert_eq!(world.check().await?, 0);
    relay.stop().await
}

#[tokio::test]
async fn a_long_transaction_holds_nothing_up_and_is_published_when_it_ends() -> Result<()> {
    let world = World::new().await?;
    let relay = world.relay().await?;
    let mut long = world.connect().await?;
    let mut long = long.begin().await?;
    insert(&mut long, 1_000, CREATED, "").await?;
    for order in 0..100 {
        world.commit(order, CREATED).await?;
    }
    world.all_sent().await?;
    insert(&mut long, 1_001, CREATED, "").await?;
    long.commit().await?;
    world.all_sent().await?;
    assert_eq!(world.check().await?, 0);
    relay.stop().await
}

#[tokio::test]
async fn rows_written_under_savepoints_are_published_unless_rolled_back_to() -> Result<()> {
    let world = World::new().await?;
    let relay = world.relay().await?;
    let mut transaction = world.pool.begin().await?;
    transaction.execute("savepoint outer_one").await?;
    insert(&mut transaction, 1, CREATED, "").await?;
    transaction.execute("savepoint inner_one").await?;
    insert(&mut transaction, 2, CREATED, "").await?;
    transaction.execute("rollback to savepoint inner_one").await?;
    // Other transactions come and go, so that snapshots pass over the xids of the savepoints.
    world.commit(3, CREATED).await?;
    world.all_sent().await?;
    insert(&mut transaction, 4, CREATED, "").await?;
    transaction.execute("release savepoint outer_one").await?;
    world.commit(5, CREATED).await?;
    transaction.commit().await?;
    world.all_sent().await?;
    let rows: i64 = sqlx::query_scalar("select count(*) from outbox_log")
        .fetch_one(&world.pool)
        .await?;
    assert_eq!((world.check().await?, rows), (0, 4));
    relay.stop().await
}

#[tokio::test]
async fn a_prepared_transaction_is_published_when_it_is_committed() -> Result<()> {
    let server = commerce_core::testing::Postgres::start().await?;
    let mut admin = sqlx::PgConnection::connect(&server.admin_url()).await?;
    admin
        .execute("alter system set max_prepared_transactions = 5")
        .await?;
    server.restart().await?;
    let world = World::on_postgres(&server).await?;
    let relay = world.relay().await?;
    let mut connection = world.connect().await?;
    connection.execute("begin").await?;
    insert(&mut connection, 1, CREATED, "").await?;
    connection.execute("prepare transaction 'later'").await?;
    world.commit(2, CREATED).await?;
    world.all_sent().await?;
    connection.execute("commit prepared 'later'").await?;
    world.all_sent().await?;
    assert_eq!(world.check().await?, 0);
    relay.stop().await
}

#[tokio::test]
async fn many_events_of_few_orders_stay_in_order() -> Result<()> {
    let world = World::new().await?;
    world.commit_many(2_000, 40).await?;
    let mut config = world.config()?;
    config.batch_size = 100;
    let relay = world.relay_with(config).await?;
    world.all_sent().await?;
    assert_eq!(world.check().await?, 0);
    relay.stop().await
}

#[tokio::test]
async fn an_idle_relay_writes_nothing_but_its_lease() -> Result<()> {
    let world = World::new().await?;
    let relay = world.relay().await?;
    world.commit(1, CREATED).await?;
    world.all_sent().await?;
    let checkpoint = async || -> Result<(String, i64)> {
        const STATE: &str = "select (snapshot, window_snapshot, position, updated_at)::text,
            (select count(*) from relay_progress) from relay_checkpoint";
        Ok(sqlx::query_as(STATE).fetch_one(&world.pool).await?)
    };
    // The checkpoint may still move from inside the finished window to its end.
    let settled = "select window_snapshot is null from relay_checkpoint";
    eventually("the window is finished", async || {
        sqlx::query_scalar::<_, bool>(settled)
            .fetch_one(&world.pool)
            .await
            .unwrap_or(false)
    })
    .await?;
    let before = checkpoint().await?;
    let lease = async || {
        sqlx::query_scalar::<_, String>("select lease_expires_at::text from relay_checkpoint")
            .fetch_one(&world.pool)
            .await
    };
    let renewals = lease().await?;
    eventually("the lease is renewed", async || {
        lease().await.is_ok_and(|now| now != renewals)
    })
    .await?;
    // Transactions that have nothing to do with the outbox move PostgreSQL's snapshots all the time.
    sqlx::query("create table unrelated as select 1")
        .execute(&world.pool)
        .await?;
    let renewals = lease().await?;
    eventually("the lease is renewed again", async || {
        lease().await.is_ok_and(|now| now != renewals)
    })
    .await?;
    assert_eq!(checkpoint().await?, before);
    relay.stop().await
}
