//! Stores that go away under load and come back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use commerce_core::testing::{Kafka, Postgres, Proxy};
use sqlx::PgPool;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::support::{CANCELLED, CREATED, Running, World, eventually, insert, readiness, status};

/// Writes until told to stop; errors are what happens to a writer when PostgreSQL is away.
pub struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<u32>,
}

impl Load {
    pub fn start(pool: PgPool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut committed = 0;
            for order in (0..200).cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                committed += u32::from(write(&pool, order).await.is_ok());
            }
            committed
        });
        Self { stop, task }
    }

    pub async fn stop(self) -> Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.task.await?)
    }
}

async fn write(pool: &PgPool, order: u32) -> Result<()> {
    let mut transaction = pool.begin().await?;
    insert(&mut transaction, order, CREATED, "").await?;
    insert(&mut transaction, order, CANCELLED, "").await?;
    Ok(transaction.commit().await?)
}

pub async fn ready(relay: &Running, check: &str, expected: bool) -> Result<()> {
    eventually(&format!("{check} is ready: {expected}"), async || {
        readiness(relay.admin)
            .await
            .is_ok_and(|found| found["checks"][check]["ready"] == expected)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_killed_and_restarted_under_load_loses_nothing() -> Result<()> {
    let kafka = Kafka::start().await?;
    let world = World::on_kafka(&kafka).await?;
    let relay = world.relay().await?;
    let load = Load::start(world.pool.clone());
    eventually("events flow", async || {
        world.count("SENT").await.is_ok_and(|sent| sent > 100)
    })
    .await?;
    kafka.kill()?;
    ready(&relay, "events", false).await?;
    let why = readiness(relay.admin).await?["checks"]["events"]["message"].to_string();
    assert!(why.contains("Kafka acknowledges nothing"), "{why}");
    kafka.restart().await?;
    ready(&relay, "events", true).await?;
    let committed = load.stop().await?;
    world.all_sent().await?;
    let duplicates = world.check().await?;
    println!("{committed} transactions, {duplicates} duplicates");
    let terms = sqlx::query_scalar::<_, i64>("select token from relay_checkpoint")
        .fetch_one(&world.pool)
        .await?;
    assert_eq!(terms, 1, "an outage of Kafka is waited for, not restarted over");
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_killed_and_restarted_under_load_loses_nothing() -> Result<()> {
    let postgres = Postgres::start().await?;
    let world = World::on_postgres(&postgres).await?;
    let relay = world.relay().await?;
    let load = Load::start(world.pool.clone());
    for round in 1..=3 {
        eventually("events flow", async || {
            world.count("SENT").await.is_ok_and(|sent| sent > 100 * round)
        })
        .await?;
        postgres.kill()?;
        ready(&relay, "postgres", false).await?;
        postgres.restart().await?;
        ready(&relay, "postgres", true).await?;
    }
    let committed = load.stop().await?;
    world.all_sent().await?;
    let duplicates = world.check().await?;
    println!("{committed} transactions, {duplicates} duplicates");
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_hangs_is_noticed_and_recovered_from() -> Result<()> {
    let postgres = Postgres::start().await?;
    let world = World::on_postgres(&postgres).await?;
    let relay = world.relay().await?;
    world.commit(1, CREATED).await?;
    world.all_sent().await?;
    postgres.pause()?;
    ready(&relay, "postgres", false).await?;
    postgres.resume()?;
    world.commit(2, CREATED).await?;
    world.all_sent().await?;
    ready(&relay, "postgres", true).await?;
    world.check().await?;
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_are_away_at_the_start_are_waited_for() -> Result<()> {
    let kafka = Kafka::start().await?;
    let world = World::on_kafka(&kafka).await?;
    kafka.kill()?;
    world.commit(1, CREATED).await?;
    let relay = world.relay().await?;
    ready(&relay, "kafka", false).await?;
    kafka.restart().await?;
    world.all_sent().await?;
    ready(&relay, "kafka", true).await?;
    world.check().await?;
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_stops_in_time_while_kafka_is_away_and_the_next_one_goes_on() -> Result<()> {
    let kafka = Kafka::start().await?;
    let world = World::on_kafka(&kafka).await?;
    let relay = world.relay().await?;
    world.commit(1, CREATED).await?;
    world.all_sent().await?;
    kafka.kill()?;
    world.commit(2, CREATED).await?;
    eventually("it is under way", async || {
        status(relay.admin)
            .await
            .is_ok_and(|status| status["inFlight"] == 1)
    })
    .await?;
    let asked = Instant::now();
    relay.stop().await?;
    // Kubernetes kills after 30 s.
    assert!(
        asked.elapsed() < Duration::from_secs(20),
        "stopping took {:?}",
        asked.elapsed()
    );
    let (_, held) = world.lease().await?;
    assert!(!held, "the lease was not released");

    kafka.restart().await?;
    let next = world.relay().await?;
    world.all_sent().await?;
    assert_eq!(world.check().await?, 0);
    next.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_cut_off_from_postgres_is_replaced_and_moves_nothing_afterwards() -> Result<()> {
    let world = World::new().await?;
    let proxy = Proxy::start(world.postgres()?).await?;
    let first = world.relay_with(world.behind(&proxy)?).await?;
    first.active().await?;
    let load = Load::start(world.pool.clone());
    eventually("events flow", async || {
        world.count("SENT").await.is_ok_and(|sent| sent > 100)
    })
    .await?;
    let second = world.relay().await?;
    second.standby().await?;

    proxy.cut();
    let cut = Instant::now();
    second.active().await?;
    assert!(
        cut.elapsed() < Duration::from_secs(3),
        "took over after {:?}",
        cut.elapsed()
    );
    let sent = world.count("SENT").await?;
    eventually("events flow again", async || {
        world.count("SENT").await.is_ok_and(|now| now > sent + 100)
    })
    .await?;
    // What the first one sent to PostgreSQL before it noticed arrives now.
    proxy.mend();
    first.standby().await?;
    let committed = load.stop().await?;
    world.all_sent().await?;
    let duplicates = world.check().await?;
    println!("{committed} transactions, {duplicates} duplicates");
    first.stop().await?;
    second.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_to_kafka_that_is_cut_again_and_again_loses_nothing() -> Result<()> {
    let (kafka, proxy) = Kafka::behind_proxy().await?;
    let world = World::on_kafka(&kafka).await?;
    let relay = world.relay().await?;
    let load = Load::start(world.pool.clone());
    for round in 1..=5 {
        eventually("events flow", async || {
            world.count("SENT").await.is_ok_and(|sent| sent > 200 * round)
        })
        .await?;
        proxy.cut();
        sleep(Duration::from_secs(2)).await;
        proxy.mend();
    }
    let committed = load.stop().await?;
    world.all_sent().await?;
    let duplicates = world.check().await?;
    println!("{committed} transactions, {duplicates} duplicates");
    assert_eq!(
        duplicates, 0,
        "the producer is idempotent, and the relay was never replaced"
    );
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_killed_every_second_under_load_lose_nothing() -> Result<()> {
    let world = World::new().await?;
    let load = Load::start(world.pool.clone());
    let mut relays = vec![world.process().await?, world.process().await?];
    for _ in 0..8 {
        sleep(Duration::from_secs(1)).await;
        relays.remove(0).kill()?;
        relays.push(world.process().await?);
    }
    let committed = load.stop().await?;
    world.all_sent().await?;
    let duplicates = world.check().await?;
    println!("{committed} transactions, {duplicates} duplicates");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_relays_that_are_both_active_under_load_lose_nothing_and_keep_order() -> Result<()> {
    let world = World::new().await?;
    let load = Load::start(world.pool.clone());
    let (first, second) = (world.relay().await?, world.relay().await?);
    for _ in 0..10 {
        sleep(Duration::from_millis(700)).await;
        // The holder goes on until its next heartbeat or checkpoint; the other one begins at once.
        sqlx::query("update relay_checkpoint set lease_expires_at = null")
            .execute(&world.pool)
            .await?;
        sqlx::query("select pg_notify('commerce_relay_lease', '')")
            .execute(&world.pool)
            .await?;
    }
    let committed = load.stop().await?;
    world.all_sent().await?;
    let duplicates = world.check().await?;
    let (terms, _) = world.lease().await?;
    println!("{committed} transactions, {duplicates} duplicates, {terms} terms");
    assert!(terms > 5, "the lease was taken over only {terms} times");
    first.stop().await?;
    second.stop().await
}
