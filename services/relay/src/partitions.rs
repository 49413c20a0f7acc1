//! The outbox's daily partitions: made ahead of time, and dropped when their time is over and nothing in them is left
//! to do.
//!
//! Only the active relay sees to them, but every step is harmless if two do: each is a transaction of its own that
//! waits for its turn and looks again before it changes anything. A missing partition stops no order, since rows
//! without one land in the default partition, which takes any day; so a failure here is only a warning, and another
//! attempt is made soon.

mod round;

use std::{collections::HashSet, convert::Infallible, time::Duration};

use chrono::NaiveDate;
use sqlx::{PgConnection, Row as _};
use tokio::time::{Instant, sleep};

pub use self::round::{Held, Round, maintain};
use crate::{
    Config,
    report::{Report, Retained},
};

const INTERVAL: Duration = Duration::from_hours(1);
/// After a failure; it doubles with each further one, since every attempt at a lock holds up writers for a moment.
const RETRY: Duration = Duration::from_mins(1);
/// How often to look at what the outbox holds.
const LOOK: Duration = Duration::from_secs(5);

/// Keeps the partitions as they should be, and `report` informed of what they hold.
pub async fn keep(config: &Config, report: &Report) {
    let mut keeper = Keeper {
        next_round: Instant::now(),
        retry: RETRY,
        failing: false,
        default_in_use: false,
        held: HashSet::new(),
    };
    loop {
        let Err(error) = keeper.work(config, report).await;
        keeper.failed(&error);
        sleep(RETRY).await;
    }
}

/// What it knows from one round to the next, so that nothing is told twice.
struct Keeper {
    next_round: Instant,
    retry: Duration,
    failing: bool,
    default_in_use: bool,
    held: HashSet<NaiveDate>,
}

impl Keeper {
    /// Works over one connection, for as long as that holds.
    async fn work(&mut self, config: &Config, report: &Report) -> Result<Infallible, sqlx::Error> {
        let mut connection = round::connect(&config.postgres).await?;
        loop {
            let retained = look(&mut connection).await?;
            self.tell_of_default(retained.default_partition_rows);
            report.set_retained(retained);
            if Instant::now() >= self.next_round {
                let round = round::run(&mut connection, config.outbox_retention).await;
                self.next_round = Instant::now() + self.tell(&round);
            }
            sleep(LOOK).await;
        }
    }

    fn tell_of_default(&mut self, rows: u64) {
        if rows > 0 && !self.default_in_use {
            tracing::warn!(
                rows,
                "events of days without a partition are in the default partition of the outbox"
            );
        }
        self.default_in_use = rows > 0;
    }

    /// Returns how long to wait until the next round.
    fn tell(&mut self, round: &Round) -> Duration {
        for day in &round.added {
            tracing::info!(%day, "made a partition of the outbox");
        }
        for day in &round.dropped {
            tracing::info!(%day, "dropped a partition of the outbox");
        }
        for (day, reason) in &round.held {
            if self.held.insert(*day) {
                tracing::warn!(%day, %reason, "a partition of the outbox stays beyond its retention");
            }
        }
        self.held
            .retain(|day| round.held.iter().any(|(held, _)| held == day));
        let Some(problem) = &round.problem else {
            self.failing = false;
            self.retry = RETRY;
            return INTERVAL;
        };
        let wait = self.retry;
        self.retry = (2 * self.retry).min(INTERVAL);
        if round.is_busy() {
            tracing::info!(
                wait_s = wait.as_secs(),
                "the outbox's partitions are in use; trying again later"
            );
        } else {
            self.failed(problem);
        }
        wait
    }

    fn failed(&mut self, error: &sqlx::Error) {
        if self.failing {
            tracing::debug!(%error, "keeping the partitions of the outbox");
        } else {
            tracing::warn!(%error, "keeping the partitions of the outbox");
        }
        self.failing = true;
    }
}

/// What the outbox holds, without a scan of it: the first row comes from the ends of the partitions' indexes.
async fn look(connection: &mut PgConnection) -> Result<Retained, sqlx::Error> {
    const LOOK: &str = "
        select (select outbox_id from outbox_log order by xid, outbox_id limit 1),
               (select count(*) from outbox_parked where discarded_at is not null and sent_at is null),
               (select count(*) from (select from outbox_log_default limit 10000) counted)";
    let row = sqlx::query(LOOK).fetch_one(connection).await?;
    Ok(Retained {
        first_id: row.try_get(0)?,
        discarded: row.try_get::<i64, _>(1)?.unsigned_abs(),
        default_partition_rows: row.try_get::<i64, _>(2)?.unsigned_abs(),
    })
}
