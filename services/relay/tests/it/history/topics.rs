//! What Kafka holds, and what that says about the database.

use std::time::Duration;

use anyhow::{Result, ensure};
use commerce_core::{
    event::header,
    topics::{self, TopicSpec},
};
use pretty_assertions::assert_eq;
use rdkafka::{
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer},
};
use sqlx::Executor as _;

use super::{blocked, goes_on, number};
use crate::{
    outage::{Load, ready},
    support::{CREATED, PATIENCE, World, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn topics_with_the_events_of_another_database_are_not_published_to_unasked() -> Result<()> {
    let first = World::new().await?;
    let relay = first.relay().await?;
    first.commit_many(5, 5).await?;
    first.all_sent().await?;
    relay.stop().await?;
    let mut second = World::new().await?;
    second.kafka = first.kafka.clone();
    let relay = second.relay().await?;
    let why = blocked(&relay).await?;
    assert!(why.contains("5 at the ends of its topics"), "{why}");
    // It goes on by itself when the reason has gone.
    topics::delete(&second.kafka).await?;
    relay.active().await?;
    assert_eq!(number(&second.pool, "select count(*) from outbox_lost").await?, 0);
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_has_dropped_is_not_lost_and_days_to_come_are_not_dropped() -> Result<()> {
    const AT: &str = "
        insert into outbox_log (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload,
                                correlation_id, created_at)
        values (gen_random_uuid(), 'order', '1', 1, 'order.created', '{}', 'c', now() + make_interval(days => $1))";
    let world = World::new().await?;
    world
        .pool
        .execute(
            "select outbox_log_add_partition((now() at time zone 'UTC')::date - day) from unnest('{2, 5}'::integer[]) day",
        )
        .await?;
    let relay = world.relay().await?;
    for days in [-5, -2, 0, 30] {
        sqlx::query(AT).bind(days).execute(&world.pool).await?;
    }
    world.all_sent().await?;
    relay.stop().await?;
    // An older one stays, as where an event in it is parked.
    world
        .pool
        .execute(
            "do $$ begin
                 execute format('drop table outbox_log_%s', to_char((now() at time zone 'UTC')::date - 2, 'YYYYMMDD'));
             end $$",
        )
        .await?;
    let relay = world.relay().await?;
    relay.active().await?;
    relay.stop().await?;
    // A late row may bring the day back, but not the others.
    world
        .pool
        .execute("select outbox_log_add_partition((now() at time zone 'UTC')::date - 2)")
        .await?;
    let mut config = world.config()?;
    config.outbox_retention = Duration::from_hours(1);
    let relay = world.relay_with(config.clone()).await?;
    relay.active().await?;
    relay.stop().await?;
    world.pool.execute("delete from outbox_log_default").await?;
    let relay = world.relay_with(config).await?;
    let why = blocked(&relay).await?;
    assert!(why.contains("1 at the ends of its topics"), "{why}");
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_written_to_the_topics_says_nothing() -> Result<()> {
    let world = World::new().await?;
    let producer: ThreadedProducer<DefaultProducerContext> = world.kafka.client("test").create()?;
    let topic = world.kafka.topic(CREATED);
    let time = "2999-01-01T00:00:00.000000Z";
    let complete = [
        (header::SOURCE, "/commerce-pipeline/orders"),
        (header::ID, "0194a7c3-0a54-7c63-9f1f-5f6f2f1a2b3c"),
        (header::SUBJECT, "1"),
        (header::TIME, time),
        (header::OUTBOX_POSITION, "7:1"),
    ];
    let send = |headers: &[(&str, &str)]| {
        let headers = headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(*value),
            })
        });
        let record = BaseRecord::to(&topic).key("1").payload("{}").headers(headers);
        producer.send(record).map_err(|(error, _)| error)?;
        producer.flush(PATIENCE)
    };
    send(&[])?;
    send(&complete[..4])?;
    let mut foreign = complete;
    foreign[0].1 = "/another/pipeline";
    send(&foreign)?;
    goes_on(&world).await?;
    send(&complete)?;
    let relay = world.relay().await?;
    let why = blocked(&relay).await?;
    assert!(
        why.contains("event 0194a7c3-0a54-7c63-9f1f-5f6f2f1a2b3c of order 1,"),
        "{why}"
    );
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_and_made_again_under_load_parks_nothing() -> Result<()> {
    let world = World::new().await?;
    let relay = world.relay().await?;
    let load = Load::start(world.pool.clone());
    eventually("events flow", async || {
        world.count("SENT").await.is_ok_and(|sent| sent > 100)
    })
    .await?;
    let admin: AdminClient<DefaultClientContext> = world.kafka.client("test").create()?;
    let topic = world.kafka.topic(CREATED);
    for result in admin.delete_topics(&[&topic], &AdminOptions::new()).await? {
        ensure!(result.is_ok(), "deleting the topic: {result:?}");
    }
    eventually("the topic is gone", async || {
        topics::partitions(&world.kafka)
            .await
            .is_ok_and(|found| !found.contains_key(&topic))
    })
    .await?;
    // Longer than librdkafka takes to be sure of it.
    let until = tokio::time::Instant::now() + Duration::from_secs(8);
    eventually("it stays away for a while", async || {
        tokio::time::Instant::now() > until
    })
    .await?;
    let spec = TopicSpec {
        partitions: 3,
        replication_factor: 1,
        config: std::collections::BTreeMap::new(),
    };
    topics::ensure(&world.kafka, &spec).await?;
    let made = number(&world.pool, "select coalesce(max(outbox_id), 0) from outbox_log").await?;
    eventually("events flow into it", async || {
        let later = "select count(*) from outbox_events where status = 'SENT' and outbox_id > $1";
        let later = sqlx::query_scalar::<_, i64>(later)
            .bind(made)
            .fetch_one(&world.pool);
        later.await.is_ok_and(|sent| sent > 100)
    })
    .await?;
    load.stop().await?;
    world.all_sent().await?;
    ready(&relay, "events", true).await?;
    assert_eq!(
        number(&world.pool, "select count(*) from outbox_parked").await?,
        0
    );
    let later = "select event_id::text from outbox_log where outbox_id > $1";
    let later: Vec<String> = sqlx::query_scalar(later)
        .bind(made)
        .fetch_all(&world.pool)
        .await?;
    let published = world.published().await?;
    let published: std::collections::HashSet<_> = published
        .iter()
        .filter_map(|message| message.headers.get(header::ID))
        .collect();
    for id in &later {
        assert!(published.contains(id), "the event {id} is lost");
    }
    relay.stop().await
}
