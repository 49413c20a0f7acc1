//! Days that have no partition, and days whose time is over.

use std::{
    ops::RangeInclusive,
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};
use commerce_core::{event::header, testing::Postgres};
use commerce_relay::partitions::{Held, Round, maintain};
use futures::future::try_join_all;
use pretty_assertions::assert_eq;
use sqlx::{Connection as _, Executor as _, PgConnection, types::chrono::NaiveDate};
use tokio::time::Instant;

use crate::support::{CREATED, Running, World, eventually, insert};

const WEEK: Duration = Duration::from_hours(168);
const YEARS: Duration = Duration::from_hours(24 * 1_000);

/// The day so many days ago.
async fn day(world: &World, ago: i32) -> Result<NaiveDate> {
    let day = sqlx::query_scalar("select (now() at time zone 'UTC')::date - $1").bind(ago);
    Ok(day.fetch_one(&world.pool).await?)
}

async fn days(world: &World, ago: impl IntoIterator<Item = i32>) -> Result<Vec<NaiveDate>> {
    let mut days = Vec::new();
    for ago in ago {
        days.push(day(world, ago).await?);
    }
    days.sort();
    Ok(days)
}

async fn add(world: &World, ago: i32) -> Result<()> {
    let add = sqlx::query("select outbox_log_add_partition($1)").bind(day(world, ago).await?);
    add.execute(&world.pool).await?;
    Ok(())
}

async fn exists(world: &World, ago: i32) -> Result<bool> {
    let exists =
        sqlx::query_scalar("select to_regclass('outbox_log_' || to_char($1::date, 'YYYYMMDD')) is not null");
    Ok(exists.bind(day(world, ago).await?).fetch_one(&world.pool).await?)
}

/// Inserts an event for each of the orders, as if that had been at noon of the day.
async fn insert_on(
    connection: &mut PgConnection,
    day: NaiveDate,
    orders: RangeInclusive<i32>,
    topic: &str,
) -> Result<()> {
    const INSERT: &str = "
        insert into outbox_log (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload,
                                correlation_id, created_at)
        select gen_random_uuid(), 'order', n::text, 1, $1, '{}', 'c',
               $2::timestamp at time zone 'UTC' + interval '12 hours'
          from generate_series($3, $4) n";
    sqlx::query(INSERT)
        .bind(topic)
        .bind(day)
        .bind(*orders.start())
        .bind(*orders.end())
        .execute(connection)
        .await?;
    Ok(())
}

async fn commit_on(world: &World, ago: i32, orders: RangeInclusive<i32>, topic: &str) -> Result<()> {
    let day = day(world, ago).await?;
    insert_on(&mut *world.pool.acquire().await?, day, orders, topic).await
}

async fn number(world: &World, query: &'static str) -> Result<i64> {
    Ok(sqlx::query_scalar(query).fetch_one(&world.pool).await?)
}

/// A relay that drops nothing by itself.
async fn keeping(world: &World) -> Result<Running> {
    let mut config = world.config()?;
    config.outbox_retention = YEARS;
    world.relay_with(config).await
}

/// Waits until everything is sent, and the relay is through with the window in which it was. Then it stops.
async fn finish(world: &World, relay: Running) -> Result<()> {
    world.all_sent().await?;
    eventually("the window is finished", async || {
        number(
            world,
            "select count(*) from relay_checkpoint where window_snapshot is null",
        )
        .await
        .is_ok_and(|finished| finished == 1)
    })
    .await?;
    relay.stop().await
}

/// One round, in which nothing may go wrong.
async fn round(world: &World, retention: Duration) -> Result<Round> {
    let round = maintain(&world.config()?.postgres, retention).await?;
    match round.problem {
        None => Ok(round),
        Some(problem) => Err(problem.into()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_relays_at_once_make_and_drop_each_partition_once() -> Result<()> {
    let world = World::new().await?;
    let missing = days(&world, [-1, -2, -3]).await?;
    sqlx::raw_sql(
        "do $$ begin
             execute format('drop table outbox_log_%s', to_char((now() at time zone 'UTC')::date + 1, 'YYYYMMDD'));
             execute format('drop table outbox_log_%s', to_char((now() at time zone 'UTC')::date + 2, 'YYYYMMDD'));
         end $$",
    )
    .execute(&world.pool)
    .await?;
    for ago in 20..25 {
        add(&world, ago).await?;
    }
    let postgres = world.config()?.postgres;
    let mut rounds = try_join_all((0..8).map(|_| maintain(&postgres, WEEK))).await?;
    for round in &rounds {
        ensure!(round.problem.is_none() || round.is_busy(), "{round:?}");
    }
    rounds.push(round(&world, WEEK).await?);
    let mut added: Vec<_> = rounds.iter().flat_map(|round| round.added.clone()).collect();
    let mut dropped: Vec<_> = rounds.iter().flat_map(|round| round.dropped.clone()).collect();
    added.sort();
    dropped.sort();
    assert_eq!((added, dropped), (missing, days(&world, 20..25).await?));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn past_days_in_the_default_partition_get_their_own_when_they_are_published() -> Result<()> {
    let world = World::new().await?;
    commit_on(&world, 3, 1..=50, CREATED).await?;
    let relay = keeping(&world).await?;
    finish(&world, relay).await?;
    commit_on(&world, 2, 1..=50, CREATED).await?;
    world.commit(1, CREATED).await?;
    round(&world, YEARS).await?;
    assert_eq!(
        (exists(&world, 3).await?, exists(&world, 2).await?),
        (true, false)
    );
    assert_eq!((world.count("SENT").await?, world.count("NEW").await?), (50, 51));
    assert_eq!(
        number(&world, "select count(*) from outbox_log_default").await?,
        50
    );

    let relay = keeping(&world).await?;
    finish(&world, relay).await?;
    round(&world, YEARS).await?;
    assert!(exists(&world, 2).await?);
    assert_eq!(
        number(&world, "select count(*) from outbox_log_default").await?,
        0
    );
    assert_eq!(world.count("SENT").await?, 101);
    assert_eq!(world.check().await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn days_that_move_while_the_relay_reads_them_are_published_once() -> Result<()> {
    const DAYS: i32 = 8;
    let world = World::new().await?;
    for ago in 2..2 + DAYS {
        commit_on(&world, ago, 1..=300, CREATED).await?;
    }
    let mut config = world.config()?;
    (config.outbox_retention, config.batch_size) = (YEARS, 50);
    let relay = world.relay_with(config).await?;
    let done = AtomicBool::new(false);
    // Transactions from before midnight may still write, long afterwards.
    let writing = async {
        for n in 1.. {
            if done.load(Ordering::Relaxed) {
                break;
            }
            let day = day(&world, 2 + n % DAYS).await?;
            let mut transaction = world.pool.begin().await?;
            // Refused where the day gets its partition at this very moment.
            if insert_on(&mut transaction, day, 1..=2, CREATED).await.is_ok() {
                transaction.commit().await?;
            }
            world.commit(n.unsigned_abs() + 1_000, CREATED).await?;
        }
        anyhow::Ok(())
    };
    let moving = async {
        let moved = eventually("every day has its partition", async || {
            let round = maintain(&world.config().unwrap().postgres, YEARS).await;
            round.is_ok_and(|round| round.problem.is_none() || round.is_busy())
                && number(&world, "select count(*) from outbox_log_default")
                    .await
                    .is_ok_and(|left| left == 0)
        });
        moved.await?;
        done.store(true, Ordering::Relaxed);
        Ok(())
    };
    tokio::try_join!(writing, moving)?;
    world.all_sent().await?;
    assert_eq!(world.check().await?, 0);
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_is_dropped_when_it_is_published_and_its_time_is_over() -> Result<()> {
    let world = World::new().await?;
    for ago in 7..10 {
        add(&world, ago).await?;
        commit_on(&world, ago, 1..=10, CREATED).await?;
    }
    sqlx::query(
        "insert into relay_progress
         select now() - make_interval(days => ago), snapshot, snapshot, 0
           from relay_checkpoint, unnest(array[6, 12]) ago",
    )
    .execute(&world.pool)
    .await?;
    let unpublished = round(&world, WEEK).await?;
    let held: Vec<_> = days(&world, 8..10)
        .await?
        .into_iter()
        .map(|day| (day, Held::Unpublished))
        .collect();
    assert_eq!((unpublished.held, unpublished.dropped), (held, Vec::new()));

    let relay = keeping(&world).await?;
    finish(&world, relay).await?;
    assert_eq!(world.check().await?, 0);
    let published = round(&world, WEEK).await?;
    assert_eq!(
        (published.held, published.dropped),
        (Vec::new(), days(&world, 8..10).await?)
    );
    assert_eq!(
        (exists(&world, 8).await?, exists(&world, 7).await?),
        (false, true)
    );
    assert_eq!(number(&world, "select count(*) from outbox_events").await?, 10);
    let forgotten = "select count(*) from relay_progress where sent_at < now() - interval '7 days'";
    assert_eq!(number(&world, forgotten).await?, 0);
    assert!(number(&world, "select count(*) from relay_progress").await? > 1);

    // The active relay does it by itself.
    let mut config = world.config()?;
    config.outbox_retention = Duration::from_hours(24);
    let relay = world.relay_with(config).await?;
    eventually("the last one is gone", async || {
        exists(&world, 7).await.is_ok_and(|exists| !exists)
    })
    .await?;
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_with_a_long_transaction_in_it_stays_until_that_is_published() -> Result<()> {
    let world = World::new().await?;
    add(&world, 20).await?;
    let then = day(&world, 20).await?;
    let mut long = world.connect().await?;
    let mut long = long.begin().await?;
    insert_on(&mut long, then, 1..=1, CREATED).await?;
    let relay = keeping(&world).await?;
    world.commit(2, CREATED).await?;
    finish(&world, relay).await?;
    let busy = maintain(&world.config()?.postgres, WEEK).await?;
    assert!(busy.is_busy() && busy.dropped.is_empty(), "{busy:?}");
    long.commit().await?;
    assert_eq!(round(&world, WEEK).await?.held, [(then, Held::Unpublished)]);
    let relay = keeping(&world).await?;
    finish(&world, relay).await?;
    assert_eq!(world.check().await?, 0);
    assert_eq!(round(&world, WEEK).await?.dropped, [then]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_with_a_prepared_transaction_in_it_stays_until_that_is_published() -> Result<()> {
    let server = Postgres::start().await?;
    let mut admin = PgConnection::connect(&server.admin_url()).await?;
    admin
        .execute("alter system set max_prepared_transactions = 5")
        .await?;
    server.restart().await?;
    let world = World::on_postgres(&server).await?;
    add(&world, 20).await?;
    let then = day(&world, 20).await?;
    let mut connection = world.connect().await?;
    connection.execute("begin").await?;
    insert_on(&mut connection, then, 1..=1, CREATED).await?;
    connection.execute("prepare transaction 'later'").await?;
    let relay = keeping(&world).await?;
    world.commit(2, CREATED).await?;
    world.all_sent().await?;
    let busy = maintain(&world.config()?.postgres, WEEK).await?;
    assert!(busy.is_busy() && busy.dropped.is_empty(), "{busy:?}");
    connection.execute("commit prepared 'later'").await?;
    finish(&world, relay).await?;
    assert_eq!(world.check().await?, 0);
    assert_eq!(round(&world, WEEK).await?.dropped, [then]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_with_a_parked_event_in_it_stays_until_that_is_discarded() -> Result<()> {
    let world = World::new().await?;
    add(&world, 20).await?;
    let then = day(&world, 20).await?;
    commit_on(&world, 20, 1..=3, CREATED).await?;
    commit_on(&world, 20, 4..=4, "order.unheard-of").await?;
    commit_on(&world, 20, 4..=4, CREATED).await?;
    let relay = keeping(&world).await?;
    eventually("the others are sent", async || {
        let done = (world.count("SENT").await, world.count("FAILED").await);
        matches!(done, (Ok(3), Ok(1)))
    })
    .await?;
    // Two are parked: the one that Kafka refuses, and the one behind it.
    eventually("their transactions are behind the checkpoint", async || {
        let round = round(&world, WEEK).await;
        round.is_ok_and(|round| round.held == [(then, Held::Parked(2))])
    })
    .await?;
    let bad: i64 = number(
        &world,
        "select outbox_id from outbox_parked where last_error is not null",
    )
    .await?;
    world
        .parked(&["discard", &bad.to_string(), "--reason", "a test"])
        .await?
        .done()?;
    finish(&world, relay).await?;
    assert_eq!(world.check().await?, 0);
    assert_eq!(round(&world, WEEK).await?.dropped, [then]);
    assert_eq!(number(&world, "select count(*) from outbox_parked").await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_and_the_relay_work_on_while_days_are_dropped() -> Result<()> {
    const OLD: std::ops::Range<i32> = 20..30;
    let world = World::new().await?;
    let postgres = world.config()?.postgres;
    let relay = keeping(&world).await?;
    for ago in OLD {
        add(&world, ago).await?;
        commit_on(&world, ago, 1..=100, CREATED).await?;
    }
    world.all_sent().await?;
    let done = AtomicBool::new(false);
    let committed = AtomicI64::new(0);
    let writer = async |first: u32| {
        let mut longest = Duration::ZERO;
        for order in (first..first + 50).cycle() {
            if done.load(Ordering::Relaxed) {
                break;
            }
            let began = Instant::now();
            let mut transaction = world.pool.begin().await?;
            insert(&mut transaction, order, CREATED, "").await?;
            transaction.commit().await?;
            committed.fetch_add(1, Ordering::Relaxed);
            longest = longest.max(began.elapsed());
        }
        anyhow::Ok(longest)
    };
    let dropping = async {
        for ago in OLD.rev() {
            let (then, before) = (day(&world, ago).await?, committed.load(Ordering::Relaxed));
            eventually("more is written", async || {
                committed.load(Ordering::Relaxed) > before + 50
            })
            .await?;
            // The relay or a writer may have the lock for too long, once in a while.
            let retention = Duration::from_hours(24 * u64::try_from(ago - 1)?);
            eventually("it is dropped", async || {
                let round = maintain(&postgres, retention).await;
                round.is_ok_and(|round| round.dropped == [then])
            })
            .await?;
        }
        done.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    };
    let (one, two, ()) = tokio::try_join!(writer(1_000), writer(2_000), dropping)?;
    let committed = committed.into_inner();
    world.all_sent().await?;
    println!(
        "{committed} transactions meanwhile, the longest {:?}",
        one.max(two)
    );
    assert_eq!(
        number(&world, "select count(*) from outbox_log").await?,
        committed
    );
    let mut ids: Vec<_> = world
        .published()
        .await?
        .into_iter()
        .map(|message| message.headers[header::ID].clone())
        .collect();
    let published = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(
        (i64::try_from(published)?, ids.len()),
        (100 * i64::try_from(OLD.len())? + committed, published)
    );
    relay.stop().await
}
