//! Reading the outbox, window by window.
//!
//! A window is what became visible between two snapshots. `current` is the snapshot of the statement that finds the
//! window: whatever is visible in it is visible to every later statement too, and the filter removes what is younger. So
//! the rows of a window are the same whenever and however often they are read, which is what lets a crashed relay, or one
//! that had to stop for a while, go on in the middle. `xid` is the top-level transaction's, also for rows written under
//! a savepoint, and snapshots list top-level transactions.
//!
//! A window may be as large as the outbox. It can't be cut where some transaction id is: a transaction with a smaller id may
//! have written its event of an order after one with a larger id had. So it is read in the order of its ids, in slices,
//! each by a statement of its own: sorting the whole of it would spill to disk before the first row came, and an open
//! statement keeps PostgreSQL from vacuuming. The survey, which looks at ids only, finds which slices there are, and
//! between which transactions their rows, so that each is found by the index on `(xid, outbox_id)`. A window of a few
//! rows is read by a single statement.

use std::time::Duration;

use chrono::{DateTime, Utc};
use commerce_core::postgres::PostgresConfig;
use futures::{StreamExt as _, TryStreamExt as _};
use sqlx::{
    Connection as _, Executor as _, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgRow, PgValueFormat},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::{
    error::{Error, doing},
    lanes::lane,
    tracker::{Entry, Snapshot},
};

/// Rows are handed over in chunks of up to this many.
const CHUNK: usize = 256;
/// A server that does not answer for so long counts as away. The lease's heartbeat notices that sooner, but over another
/// connection; a survey looks at every row of a backlog.
const PATIENCE: Duration = Duration::from_secs(10);
const SURVEY_PATIENCE: Duration = Duration::from_mins(5);

/// How much is read at a time.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A window of up to so many rows is read by a single statement.
    pub recent: i64,
    /// Ids of a slice; so many rows are read by one statement at most.
    pub slice: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            recent: 256,
            slice: 8_192,
        }
    }
}

// Plans that stay the same however old the statistics are, planned once, without compiling and without workers, which take
// longer to start than there is to do.
const SESSION: &str = "set enable_seqscan = off; set jit = off; set plan_cache_mode = force_generic_plan;
    set max_parallel_workers_per_gather = 0; set work_mem = '32MB'; set default_transaction_read_only = on";

// In the statements below, new transactions and those that were open at the snapshot `$1` are looked for separately: with
// an `or`, a plan made while the outbox was empty may read the whole index for ever. Whatever is made of a snapshot is
// made in a subquery: once a statement, not once a row.

/// What became visible since the snapshot `$1`, up to `$2` rows in no order, with the snapshot of now.
const RECENT: &str = "
    select outbox_id, xid, event_id, aggregate_type, aggregate_id, event_type, payload::text,
           headers ->> 'traceparent', correlation_id, created_at,
           (select pg_current_snapshot()::text), (select (extract(epoch from clock_timestamp()) * 1000000)::bigint)
      from (values (1)) always
      left join lateral (
        select * from outbox_log where xid >= (select pg_snapshot_xmax($1::pg_snapshot))
        union all
        select * from outbox_log where xid = any (array(select pg_snapshot_xip($1::pg_snapshot)))
        limit $2
      ) rows on true";

/// What there is between the snapshot `$1` and `$2`, or now, behind the id `$3`. A slice's first transaction is the first new one:
/// those that were open at `$1` are few, and looked for one by one.
const SURVEY: &str = "
    select coalesce($2::pg_snapshot, pg_current_snapshot())::text,
           (extract(epoch from clock_timestamp()) * 1000000)::bigint,
           coalesce(sum(rows), 0)::bigint,
           array_agg(last_id order by last_id),
           array_agg(first_xid order by last_id),
           array_agg(last_xid order by last_id)
      from (
        select count(*) as rows,
               max(outbox_id) as last_id,
               coalesce(min(xid) filter (where new), '0')::text as first_xid,
               max(xid)::text as last_xid
          from (
            select outbox_id, xid, true as new from outbox_log
             where xid >= (select pg_snapshot_xmax($1::pg_snapshot))
            union all
            select outbox_id, xid, false from outbox_log
             where xid = any (array(select pg_snapshot_xip($1::pg_snapshot)))
          ) rows
         where ($2::pg_snapshot is null or pg_visible_in_snapshot(xid, (select $2::pg_snapshot)))
           and outbox_id > $3
         group by outbox_id / $4
      ) slices";

/// The rows between the snapshots `$1` and `$2` with ids behind `$3` and up to `$4`, of which the new transactions are
/// between `$5` and `$6`.
const READ: &str = "
    select outbox_id, xid, event_id, aggregate_type, aggregate_id, event_type, payload::text,
           headers ->> 'traceparent', correlation_id, created_at
      from (
        select * from outbox_log
         where xid between (select greatest($5::xid8, pg_snapshot_xmax($1::pg_snapshot))) and (select $6::xid8)
        union all
        select * from outbox_log
         where xid = any (array(select pg_snapshot_xip($1::pg_snapshot)))
      ) rows
     where outbox_id > $3
       and outbox_id <= $4
       and pg_visible_in_snapshot(xid, (select $2::pg_snapshot))
     order by outbox_id";

/// What to read: from `previous` to now, or the rest of a window whose end is known.
#[derive(Debug, Clone)]
pub struct Request {
    pub previous: Snapshot,
    /// The window's end, and the id up to which it has been read.
    pub window: Option<(Snapshot, i64)>,
}

/// A piece of the answer to a [`Request`]: `Nothing`, or `Opened`, `Rows` and `End`. A window that was named in the request is
/// opened even where nothing of it is left.
#[derive(Debug)]
pub enum Piece {
    /// There is nothing between the two snapshots.
    Nothing(Snapshot),
    Opened(Window),
    Rows(Vec<PgRow>),
    End,
}

/// A window that is about to be read.
#[derive(Debug, Clone)]
pub struct Window {
    pub current: Snapshot,
    /// PostgreSQL's clock, in microseconds since 1970.
    pub now: i64,
    /// How many rows are to come.
    pub rows: u64,
    /// The highest of their ids.
    pub last_id: i64,
}

/// Reads in a task of its own, over a connection of its own. Memory is bounded: the task waits until a piece is taken,
/// and PostgreSQL waits for the task.
#[derive(Debug)]
pub struct Reader {
    requests: mpsc::Sender<Request>,
    pieces: mpsc::Receiver<Result<Piece, sqlx::Error>>,
    _task: AbortOnDropHandle<()>,
}

impl Reader {
    /// Reads from the server that has been up since `server`, and no other.
    #[must_use]
    pub fn start(postgres: &PostgresConfig, limits: Limits, server: DateTime<Utc>) -> Self {
        let (requests, inbox) = mpsc::channel(1);
        let (outbox, pieces) = mpsc::channel(2);
        let options = postgres.options.clone().application_name("relay-reader");
        let task = tokio::spawn(async move {
            if let Err(error) = read(&options, limits, server, inbox, &outbox).await {
                // Nobody listens any more when this fails.
                let _ = outbox.send(Err(error)).await;
            }
        });
        Self {
            requests,
            pieces,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Asks for a window. The answer to the request before must have been taken to its end.
    pub fn ask(&self, request: Request) {
        // When the task has ended, `next` says why.
        let _ = self.requests.try_send(request);
    }

    /// The next piece of the answer. Cancel safe.
    pub async fn next(&mut self) -> Result<Piece, Error> {
        let ended = || sqlx::Error::WorkerCrashed;
        self.pieces
            .recv()
            .await
            .unwrap_or_else(|| Err(ended()))
            .map_err(doing("reading the outbox"))
    }
}

/// Where a slice ends, and the new transactions that it has rows of.
struct Slice {
    last_id: i64,
    first_xid: String,
    last_xid: String,
}

async fn read(
    options: &PgConnectOptions,
    limits: Limits,
    server: DateTime<Utc>,
    mut requests: mpsc::Receiver<Request>,
    pieces: &mpsc::Sender<Result<Piece, sqlx::Error>>,
) -> Result<(), sqlx::Error> {
    let mut connection = patient(PATIENCE, PgConnection::connect_with(options)).await?;
    connection.execute(SESSION).await?;
    // While a primary is replaced, an address may lead to either. The snapshots of one would make the lease's server take
    // transactions of its own for published.
    let up_since: DateTime<Utc> = sqlx::query_scalar("select pg_postmaster_start_time()")
        .fetch_one(&mut connection)
        .await?;
    if up_since != server {
        return Err(sqlx::Error::Protocol(
            "this is another server than the one that granted the lease".to_owned(),
        ));
    }
    while let Some(request) = requests.recv().await {
        if request.window.is_none()
            && let Some((window, rows)) = recent(&mut connection, limits, &request.previous).await?
        {
            let answer = if rows.is_empty() {
                vec![Piece::Nothing(window.current)]
            } else {
                vec![Piece::Opened(window), Piece::Rows(rows), Piece::End]
            };
            for piece in answer {
                if pieces.send(Ok(piece)).await.is_err() {
                    return Ok(());
                }
            }
            continue;
        }
        let (window, slices) = survey(&mut connection, limits, &request).await?;
        let current = window.current.clone();
        if pieces.send(Ok(Piece::Opened(window))).await.is_err() {
            return Ok(());
        }
        let mut after = request.window.map_or(0, |(_, position)| position);
        for slice in slices {
            let rows = sqlx::query(READ)
                .bind(&*request.previous.0)
                .bind(&*current.0)
                .bind(after)
                .bind(slice.last_id)
                .bind(slice.first_xid)
                .bind(slice.last_xid)
                .fetch(&mut connection);
            let mut chunks = rows
                .ready_chunks(CHUNK)
                .map(|chunk| chunk.into_iter().collect::<Result<Vec<_>, _>>());
            while let Some(rows) = chunks.try_next().await? {
                if pieces.send(Ok(Piece::Rows(rows))).await.is_err() {
                    return Ok(());
                }
            }
            after = slice.last_id;
        }
        if pieces.send(Ok(Piece::End)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The window from `previous` to now and its rows in the order of their ids, unless there are many.
async fn recent(
    connection: &mut PgConnection,
    limits: Limits,
    previous: &Snapshot,
) -> Result<Option<(Window, Vec<PgRow>)>, sqlx::Error> {
    let recent = sqlx::query(RECENT).bind(&*previous.0).bind(limits.recent + 1);
    let mut rows = patient(PATIENCE, recent.fetch_all(connection)).await?;
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let (current, now) = (Snapshot(first.try_get::<&str, _>(10)?.into()), first.try_get(11)?);
    if first.try_get::<Option<i64>, _>(0)?.is_none() {
        rows.clear();
    }
    let found = rows.len() as u64;
    if found > limits.recent.unsigned_abs() {
        return Ok(None);
    }
    let id = |row: &PgRow| row.try_get::<i64, _>(0).unwrap_or_default();
    rows.sort_unstable_by_key(id);
    let window = Window {
        current,
        now,
        rows: found,
        last_id: rows.last().map(id).unwrap_or_default(),
    };
    Ok(Some((window, rows)))
}

/// What there is to read between two snapshots, the second of which may be that of now.
async fn survey(
    connection: &mut PgConnection,
    limits: Limits,
    request: &Request,
) -> Result<(Window, Vec<Slice>), sqlx::Error> {
    let (current, after) = match &request.window {
        Some((current, after)) => (Some(&*current.0), *after),
        None => (None, 0),
    };
    let survey = sqlx::query(SURVEY)
        .bind(&*request.previous.0)
        .bind(current)
        .bind(after)
        .bind(limits.slice);
    let row = patient(SURVEY_PATIENCE, survey.fetch_one(connection)).await?;
    let ends: Vec<i64> = row.try_get::<Option<_>, _>(3)?.unwrap_or_default();
    let first_xids: Vec<String> = row.try_get::<Option<_>, _>(4)?.unwrap_or_default();
    let last_xids: Vec<String> = row.try_get::<Option<_>, _>(5)?.unwrap_or_default();
    let window = Window {
        current: Snapshot(row.try_get::<&str, _>(0)?.into()),
        now: row.try_get(1)?,
        rows: row.try_get::<i64, _>(2)?.unsigned_abs(),
        last_id: ends.last().copied().unwrap_or_default(),
    };
    let slices = ends
        .into_iter()
        .zip(first_xids)
        .zip(last_xids)
        .map(|((last_id, first_xid), last_xid)| Slice {
            last_id,
            first_xid,
            last_xid,
        });
    Ok((window, slices.collect()))
}

async fn patient<T>(
    patience: Duration,
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let silent = |_| {
        sqlx::Error::Io(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            "PostgreSQL does not answer",
        ))
    };
    timeout(patience, statement).await.map_err(silent)?
}

/// An event as it stands in the outbox, borrowed from the row.
#[derive(Debug, Clone, Copy)]
pub struct Event<'r> {
    pub outbox_id: i64,
    pub xid: u64,
    pub id: Uuid,
    pub aggregate_id: &'r str,
    /// Its topic, without the prefix.
    pub kind: &'r str,
    pub payload: &'r str,
    pub traceparent: Option<&'r str>,
    pub correlation_id: &'r str,
    pub created_at: DateTime<Utc>,
}

impl<'r> Event<'r> {
    pub fn of(row: &'r PgRow) -> Result<Self, Error> {
        let event = || {
            Ok(Self {
                outbox_id: row.try_get(0)?,
                xid: xid(row)?,
                id: row.try_get(2)?,
                aggregate_id: row.try_get(4)?,
                kind: row.try_get(5)?,
                payload: row.try_get(6)?,
                traceparent: row.try_get(7)?,
                correlation_id: row.try_get(8)?,
                created_at: row.try_get(9)?,
            })
        };
        event().map_err(doing("decoding an event of the outbox"))
    }
}

/// What the tracker has to know of a row.
pub fn entry(row: &PgRow) -> Result<Entry, Error> {
    let entry = || {
        let event_time: DateTime<Utc> = row.try_get(9)?;
        let bytes = row.try_get::<&str, _>(6)?.len();
        Ok(Entry {
            outbox_id: row.try_get(0)?,
            xid: xid(row)?,
            lane: lane(row.try_get(3)?, row.try_get(4)?),
            created_at: event_time.timestamp_micros(),
            bytes,
        })
    };
    entry().map_err(doing("decoding an event of the outbox"))
}

/// sqlx has no type for xid8, whose binary form is eight bytes in network order.
fn xid(row: &PgRow) -> Result<u64, sqlx::Error> {
    let value = row.try_get_raw(1)?;
    let wrong = || sqlx::Error::Decode("outbox_log.xid is no xid8".into());
    match value.format() {
        PgValueFormat::Binary => {
            let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
            Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| wrong())?))
        }
        PgValueFormat::Text => value
            .as_str()
            .map_err(sqlx::Error::Decode)?
            .parse()
            .map_err(|_| wrong()),
    }
}
