//! Events that Kafka refuses.

use anyhow::Result;
use commerce_core::event::header;

use crate::support::{CANCELLED, CREATED, World, eventually, insert, status};

const MISSING: &str = "order.unheard-of";

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_topic_is_parked_with_those_behind_it_while_others_flow() -> Result<()> {
    let world = World::new().await?;
    let relay = world.relay().await?;
    world.commit(1, MISSING).await?;
    world.commit(1, CANCELLED).await?;
    for order in 2..20 {
        world.commit(order, CREATED).await?;
    }
    eventually("the bad one is FAILED", async || {
        world.count("FAILED").await.is_ok_and(|failed| failed == 1)
    })
    .await?;
    eventually("the others are SENT", async || {
        world.count("SENT").await.is_ok_and(|sent| sent == 18)
    })
    .await?;
    // One that comes later waits, too.
    let late = world.commit(1, CREATED).await?;
    eventually("it is parked", async || {
        let parked = sqlx::query_scalar::<_, i64>(
            "select count(*) from outbox_parked where outbox_id = $1 and last_error is null",
        );
        parked
            .bind(late)
            .fetch_one(&world.pool)
            .await
            .is_ok_and(|parked| parked == 1)
    })
    .await?;
    assert_eq!(world.count("NEW").await?, 2);
    eventually("the status tells", async || {
        status(relay.admin)
            .await
            .is_ok_and(|status| status["parked"] == 3)
    })
    .await?;
    eventually("it is tried again and again", async || {
        let attempts =
            sqlx::query_scalar::<_, i32>("select max(attempts) from outbox_parked").fetch_one(&world.pool);
        attempts.await.is_ok_and(|attempts| attempts >= 3)
    })
    .await?;
    let keys = world.published().await?;
    assert!(
        keys.iter().all(|message| message.key != "1"),
        "an event overtook a parked one"
    );

    // Somebody discards the bad one: the rest of the order follows.
    sqlx::query("delete from outbox_parked where last_error is not null")
        .execute(&world.pool)
        .await?;
    sqlx::query("delete from outbox_log where event_type = $1")
        .bind(MISSING)
        .execute(&world.pool)
        .await?;
    world.all_sent().await?;
    assert_eq!(world.check().await?, 0);
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_is_parked_and_the_parked_survive_a_restart() -> Result<()> {
    let world = World::new().await?;
    let relay = world.relay().await?;
    let mut transaction = world.pool.begin().await?;
    insert(&mut transaction, 1, CREATED, &"x".repeat(1_100_000)).await?;
    insert(&mut transaction, 1, CREATED, "").await?;
    insert(&mut transaction, 2, CREATED, "").await?;
    transaction.commit().await?;
    eventually("the large one is FAILED", async || {
        world.count("FAILED").await.is_ok_and(|failed| failed == 1)
    })
    .await?;
    eventually("the other one is SENT", async || {
        world.count("SENT").await.is_ok_and(|sent| sent == 1)
    })
    .await?;
    relay.stop().await?;

    let relay = world.relay().await?;
    world.commit(1, CREATED).await?;
    eventually("it waits behind", async || {
        world.count("NEW").await.is_ok_and(|new| new == 2)
    })
    .await?;
    // Somebody repairs it.
    let repair = "update outbox_log set payload = '{}' where length(payload::text) > 1000000";
    sqlx::query(repair).execute(&world.pool).await?;
    world.all_sent().await?;
    assert_eq!(world.check().await?, 0);
    let error: String =
        sqlx::query_scalar("select last_error from outbox_events where last_error is not null")
            .fetch_one(&world.pool)
            .await?;
    assert!(error.to_lowercase().contains("too large"), "{error}");
    let published = world.published().await?;
    assert_eq!(
        published
            .iter()
            .filter(|message| message.headers[header::SUBJECT] == "1")
            .count(),
        3
    );
    relay.stop().await
}
