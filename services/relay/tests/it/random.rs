//! Random transactions beside relays that crash, hand over and lose their lease at random.

use anyhow::Result;
use commerce_relay::Limits;
use proptest::prelude::*;
use sqlx::{Executor as _, PgConnection};

use crate::support::{CANCELLED, CREATED, Running, World, insert_locked};

const CONNECTIONS: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    /// Takes a transaction id now, long before anything is written.
    TakeXid(usize),
    Insert {
        connection: usize,
        order: u32,
        cancelled: bool,
    },
    Savepoint(usize),
    RollBackToSavepoint(usize),
    Commit(usize),
    Abort(usize),
    /// Transactions elsewhere make ids go by.
    Elsewhere,
    Crash,
    HandOver,
    /// The lease ends under its holder, as if that had been paused: two relays are active for a while.
    Steal,
}

/// From one event a statement to all of them.
fn limits() -> impl Strategy<Value = Limits> {
    (0_i64..4, 1_i64..8).prop_map(|(recent, slice)| Limits { recent, slice })
}

fn step() -> impl Strategy<Value = Step> {
    let connection = 0..CONNECTIONS;
    prop_oneof![
        2 => connection.clone().prop_map(Step::TakeXid),
        10 => (connection.clone(), 0_u32..6, any::<bool>())
            .prop_map(|(connection, order, cancelled)| Step::Insert { connection, order, cancelled }),
        2 => connection.clone().prop_map(Step::Savepoint),
        1 => connection.clone().prop_map(Step::RollBackToSavepoint),
        5 => connection.clone().prop_map(Step::Commit),
        2 => connection.prop_map(Step::Abort),
        1 => Just(Step::Elsewhere),
        1 => Just(Step::Crash),
        1 => Just(Step::HandOver),
        1 => Just(Step::Steal),
    ]
}

#[derive(Default)]
struct Writer {
    open: bool,
    savepoint: bool,
}

async fn begin(writer: &mut Writer, connection: &mut PgConnection) -> Result<()> {
    if !writer.open {
        connection.execute("begin").await?;
        *writer = Writer {
            open: true,
            savepoint: false,
        };
    }
    Ok(())
}

async fn write(step: &Step, writers: &mut [(Writer, PgConnection)]) -> Result<()> {
    match *step {
        Step::TakeXid(index) => {
            let (writer, connection) = &mut writers[index];
            begin(writer, connection).await?;
            connection.execute("select pg_current_xact_id()").await?;
        }
        Step::Insert {
            connection: index,
            order,
            cancelled,
        } => {
            let (writer, connection) = &mut writers[index];
            begin(writer, connection).await?;
            // A script that waits for itself would never end.
            let lock =
                sqlx::query_scalar("select pg_try_advisory_xact_lock(7, $1)").bind(i32::try_from(order)?);
            if lock.fetch_one(&mut *connection).await? {
                insert_locked(connection, order, if cancelled { CANCELLED } else { CREATED }, "").await?;
            }
        }
        Step::Savepoint(index) if writers[index].0.open => {
            writers[index].1.execute("savepoint here").await?;
            writers[index].0.savepoint = true;
        }
        Step::RollBackToSavepoint(index) if writers[index].0.savepoint => {
            writers[index].1.execute("rollback to savepoint here").await?;
        }
        Step::Commit(index) if writers[index].0.open => {
            writers[index].1.execute("commit").await?;
            writers[index].0 = Writer::default();
        }
        Step::Abort(index) if writers[index].0.open => {
            writers[index].1.execute("rollback").await?;
            writers[index].0 = Writer::default();
        }
        _ => {}
    }
    Ok(())
}

async fn play(steps: &[Step], limits: Limits) -> Result<()> {
    let world = World::new().await?;
    let mut writers = Vec::new();
    for _ in 0..CONNECTIONS {
        writers.push((Writer::default(), world.connect().await?));
    }
    let mut config = world.config()?;
    (config.batch_size, config.limits) = (3, limits);
    let mut relays = [
        world.relay_with(config.clone()).await?,
        world.relay_with(config.clone()).await?,
    ];
    // Only these may repeat anything.
    let (mut takeovers, mut steps_done) = (0, 0);
    for step in steps {
        match step {
            Step::Elsewhere => {
                world.pool.execute("select pg_current_xact_id()").await?;
            }
            Step::Crash | Step::HandOver => {
                let old: Running = std::mem::replace(
                    &mut relays[steps_done % 2],
                    world.relay_with(config.clone()).await?,
                );
                if matches!(step, Step::Crash) {
                    takeovers += 1;
                    old.crash().await;
                } else {
                    old.stop().await?;
                }
            }
            Step::Steal => {
                takeovers += 1;
                world
                    .pool
                    .execute("update relay_checkpoint set lease_expires_at = null")
                    .await?;
            }
            writing => write(writing, &mut writers).await?,
        }
        steps_done += 1;
    }
    for (writer, connection) in &mut writers {
        if writer.open {
            connection.execute("commit").await?;
        }
    }
    world.all_sent().await?;
    let duplicates = world.check().await?;
    anyhow::ensure!(
        duplicates == 0 || takeovers > 0,
        "{duplicates} duplicates without a crash or a takeover"
    );
    for relay in relays {
        relay.stop().await?;
    }
    Ok(())
}

proptest! {
    // Each case takes seconds: crashed relays keep their lease for a while.
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_committed_event_is_published_in_order_and_no_other(steps in prop::collection::vec(step(), 20..120), limits in limits()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        if let Err(error) = runtime.block_on(play(&steps, limits)) {
            return Err(TestCaseError::fail(format!("{error:#}")));
        }
    }
}
