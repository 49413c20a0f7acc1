//! One round through the partitions.

use std::{fmt, time::Duration};

use chrono::NaiveDate;
use commerce_core::postgres::PostgresConfig;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

/// How many days ahead there are partitions.
const AHEAD: i32 = 3;
/// The advisory lock of whoever changes partitions: two that did at the same time would wait for each other's locks.
/// ("outbox")
const TURN: i64 = 0x6f75_7462_6f78;

// Writers queue behind whoever waits for a lock on the whole log, and stand behind one that has it and dies.
const SESSION: &str =
    "set lock_timeout = '200ms'; set idle_in_transaction_session_timeout = '1s'; set jit = off;
    set enable_seqscan = off";

/// SQLSTATEs, see <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
const LOCK_NOT_AVAILABLE: &str = "55P03";
const OBJECT_IN_USE: &str = "55006";
const DEADLOCK_DETECTED: &str = "40P01";
const UNDEFINED_TABLE: &str = "42P01";
const DUPLICATE_TABLE: &str = "42P07";
/// Of a name in the catalogue, where two create the same table at the same moment.
const UNIQUE_VIOLATION: &str = "23505";

/// What was done.
#[derive(Debug, Default)]
pub struct Round {
    /// Days (UTC) that got a partition. Past ones among them had rows in the default partition, which have moved.
    pub added: Vec<NaiveDate>,
    /// Days whose partition is gone.
    pub dropped: Vec<NaiveDate>,
    /// Days whose retention is over and whose partition stays.
    pub held: Vec<(NaiveDate, Held)>,
    /// What went wrong first. It kept nothing else from being done, except that no lock was asked for again.
    pub problem: Option<sqlx::Error>,
}

/// Why a partition stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Not all of its events are published.
    Unpublished,
    /// So many of its events are parked.
    Parked(i64),
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unpublished => f.write_str("not all of its events are published"),
            Self::Parked(1) => f.write_str("1 of its events is parked"),
            Self::Parked(count) => write!(f, "{count} of its events are parked"),
        }
    }
}

impl Round {
    /// Whether the problem is only that others use the outbox.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.problem
            .as_ref()
            .is_some_and(|problem| has_code(problem, &[LOCK_NOT_AVAILABLE, OBJECT_IN_USE, DEADLOCK_DETECTED]))
    }

    fn note<T>(&mut self, result: Result<T, sqlx::Error>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problem.get_or_insert(problem);
                None
            }
        }
    }
}

/// Makes partitions for some days ahead and for past days in the default partition, and drops those that ended more
/// than `retention` ago. The active relay does this by itself every hour.
pub async fn maintain(postgres: &PostgresConfig, retention: Duration) -> Result<Round, sqlx::Error> {
    let mut connection = connect(postgres).await?;
    let round = run(&mut connection, retention).await;
    connection.close().await?;
    Ok(round)
}

pub(super) async fn connect(postgres: &PostgresConfig) -> Result<PgConnection, sqlx::Error> {
    let options = postgres.options.clone().application_name("relay-partitions");
    let mut connection = PgConnection::connect_with(&options).await?;
    connection.execute(SESSION).await?;
    Ok(connection)
}

pub(super) async fn run(connection: &mut PgConnection, retention: Duration) -> Round {
    let mut round = Round::default();
    let days = days(connection).await;
    for day in round.note(days).unwrap_or_default() {
        let added = add(connection, day).await;
        if round.note(added) == Some(true) {
            round.added.push(day);
        }
    }
    let expired = expired(connection, retention).await;
    for (day, partition) in round.note(expired).unwrap_or_default() {
        let outcome = drop_partition(connection, day, &partition).await;
        match round.note(outcome) {
            Some(Outcome::Dropped) => round.dropped.push(day),
            Some(Outcome::Held(why)) => round.held.push((day, why)),
            Some(Outcome::Gone) => {}
            // Whoever has the lock would not give it for the next partition either, and writers have waited already.
            None => break,
        }
    }
    let forgotten = forget_progress(connection).await;
    round.note(forgotten);
    round
}

/// The days that should have a partition and can get one now. Today is not among them, nor a past day in its first
/// hour: a row on its way into the default partition would be refused if that stopped taking it just then.
async fn days(connection: &mut PgConnection) -> Result<Vec<NaiveDate>, sqlx::Error> {
    const DAYS: &str = "
        select (now() at time zone 'UTC')::date + ahead from generate_series(1, $1) ahead
         union all
        select distinct (created_at at time zone 'UTC')::date
          from outbox_log_default
         where created_at < ((now() - interval '1 hour') at time zone 'UTC')::date::timestamp at time zone 'UTC'";
    sqlx::query_scalar(DAYS).bind(AHEAD).fetch_all(connection).await
}

/// Makes the partition of a day; false where it is there, or has to wait until the day's events are published. One
/// statement, so that PostgreSQL finishes it whatever becomes of this process: moving the rows of a long outage takes
/// its time.
async fn add(connection: &mut PgConnection, day: NaiveDate) -> Result<bool, sqlx::Error> {
    const ADD: &str = "select outbox_log_add_partition($1) from pg_advisory_xact_lock($2)";
    let add = sqlx::query_scalar(ADD).bind(day).bind(TURN);
    match add.fetch_one(connection).await {
        // An older relay is at it, which takes no turns.
        Err(error) if has_code(&error, &[DUPLICATE_TABLE, UNIQUE_VIOLATION]) => Ok(false),
        other => other,
    }
}

/// The days whose retention is over, with the names of their partitions as PostgreSQL quotes them.
async fn expired(
    connection: &mut PgConnection,
    retention: Duration,
) -> Result<Vec<(NaiveDate, String)>, sqlx::Error> {
    const EXPIRED: &str = "
        select day, partition
          from (
            select case when relname ~ '^outbox_log_[0-9]{8}$' then to_date(right(relname, 8), 'YYYYMMDD') end as day,
                   inhrelid::regclass::text as partition
              from pg_inherits
              join pg_class on pg_class.oid = inhrelid
             where inhparent = 'outbox_log'::regclass
          ) daily
         where (day + 1)::timestamp at time zone 'UTC' <= now() - make_interval(secs => $1)
         order by day";
    sqlx::query_as(EXPIRED)
        .bind(retention.as_secs_f64())
        .fetch_all(connection)
        .await
}

enum Outcome {
    Dropped,
    Held(Held),
    /// Somebody else has dropped it.
    Gone,
}

/// Drops a partition of which everything is published, sent after all, or discarded.
///
/// That takes an exclusive lock on the whole log for a moment. Whoever holds a lock on the log may have written rows
/// that nobody sees yet; so what is true under the lock stays true.
async fn drop_partition(
    connection: &mut PgConnection,
    day: NaiveDate,
    partition: &str,
) -> Result<Outcome, sqlx::Error> {
    const TAKE_TURN: &str = "select pg_advisory_xact_lock($1)";
    const LOCK: &str =
        "set local statement_timeout = '2s'; lock table only outbox_log in access exclusive mode";
    const FORGET_PARKED: &str = "
        delete from outbox_parked parked
         using outbox_log log
         where log.xid = parked.xid and log.outbox_id = parked.outbox_id
           and log.created_at >= $1::date::timestamp at time zone 'UTC'
           and log.created_at < ($1::date + 1)::timestamp at time zone 'UTC'";
    if let Some(why) = held(connection, day).await? {
        return Ok(Outcome::Held(why));
    }
    // Writers have locks on these only together with the one on the whole; others, such as autovacuum, are not waited
    // for while writers wait.
    let lock_rest = format!("lock table {partition}, outbox_log_default in access exclusive mode nowait");
    let mut transaction = connection.begin().await?;
    sqlx::query(TAKE_TURN)
        .bind(TURN)
        .execute(&mut *transaction)
        .await?;
    transaction.execute(LOCK).await?;
    match transaction.execute(AssertSqlSafe(lock_rest)).await {
        Err(error) if has_code(&error, &[UNDEFINED_TABLE]) => return Ok(Outcome::Gone),
        other => other?,
    };
    if let Some(why) = held(&mut transaction, day).await? {
        transaction.rollback().await?;
        return Ok(Outcome::Held(why));
    }
    sqlx::query(FORGET_PARKED)
        .bind(day)
        .execute(&mut *transaction)
        .await?;
    transaction
        .execute(AssertSqlSafe(format!("drop table {partition}")))
        .await?;
    transaction.commit().await?;
    Ok(Outcome::Dropped)
}

/// Why the partition of a day has to stay, if it has.
async fn held(connection: &mut PgConnection, day: NaiveDate) -> Result<Option<Held>, sqlx::Error> {
    // The bounds lead to the partition, and the transactions to the rows in it.
    const HELD: &str = "
        select exists (
                   select from outbox_log
                    where created_at >= $1::date::timestamp at time zone 'UTC'
                      and created_at < ($1::date + 1)::timestamp at time zone 'UTC'
                      and xid >= pg_snapshot_xmax(checkpoint.snapshot)
               ) or exists (
                   select from outbox_log
                    where created_at >= $1::date::timestamp at time zone 'UTC'
                      and created_at < ($1::date + 1)::timestamp at time zone 'UTC'
                      and xid = any (array(select pg_snapshot_xip(checkpoint.snapshot)))
               ),
               (select count(*)
                  from outbox_parked parked
                  join outbox_log log on log.xid = parked.xid and log.outbox_id = parked.outbox_id
                 where parked.sent_at is null and parked.discarded_at is null
                   and log.created_at >= $1::date::timestamp at time zone 'UTC'
                   and log.created_at < ($1::date + 1)::timestamp at time zone 'UTC')
          from relay_checkpoint checkpoint";
    let held: (bool, i64) = sqlx::query_as(HELD).bind(day).fetch_one(connection).await?;
    Ok(match held {
        (true, _) => Some(Held::Unpublished),
        (false, 0) => None,
        (false, parked) => Some(Held::Parked(parked)),
    })
}

/// Forgets when events were sent that the outbox does not have any more.
async fn forget_progress(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    const FORGET: &str = "
        delete from relay_progress
         where sent_at < least(
            (select min(case when relname ~ '^outbox_log_[0-9]{8}$' then to_date(right(relname, 8), 'YYYYMMDD') end)
               from pg_inherits
               join pg_class on pg_class.oid = inhrelid
              where inhparent = 'outbox_log'::regclass)::timestamp at time zone 'UTC',
            (select min(created_at) from outbox_log_default))";
    sqlx::query(FORGET).execute(connection).await.map(drop)
}

fn has_code(error: &sqlx::Error, codes: &[&str]) -> bool {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|found| codes.contains(&found.as_ref()))
}
