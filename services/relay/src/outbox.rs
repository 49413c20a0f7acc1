//! Reading the outbox, window by window.
//!
//! A window is what became visible between two snapshots. `current` is taken by a statement of its own, before the one
//! that reads: whatever is visible in `current` is visible to every later statement too, and the filter removes what is
//! younger. So the rows of a window are the same whenever and however often it is read, which is what lets a crashed
//! relay, or one that had to stop for a while, go on in the middle. `xid` is the top-level transaction's, also for rows
//! written under a savepoint, and snapshots list top-level transactions.

use std::time::Duration;

use chrono::{DateTime, Utc};
use commerce_core::postgres::PostgresConfig;
use futures::{StreamExt as _, TryStreamExt as _, stream};
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
const PATIENCE: Duration = Duration::from_secs(10);

// Plans that stay the same however old the statistics are: by the index on xid, planned once, without compiling.
const SESSION: &str = "set enable_seqscan = off; set jit = off; set plan_cache_mode = force_generic_plan;
    set work_mem = '32MB'; set default_transaction_read_only = on";

const LOOK: &str = "
    select pg_current_snapshot()::text,
           (extract(epoch from clock_timestamp()) * 1000000)::bigint,
           exists (select from outbox_log where xid >= pg_snapshot_xmax($1::pg_snapshot))
           or exists (select from outbox_log where xid = any (array(select pg_snapshot_xip($1::pg_snapshot))))";

const READ: &str = "
    select outbox_id, xid, event_id, aggregate_type, aggregate_id, event_type, payload::text,
           headers ->> 'traceparent', correlation_id, created_at
      from outbox_log
     where (xid >= pg_snapshot_xmax($1::pg_snapshot) or xid = any (array(select pg_snapshot_xip($1::pg_snapshot))))
       and pg_visible_in_snapshot(xid, $2::pg_snapshot)
       and outbox_id > $3
     order by outbox_id";

/// What to read: from `previous` to now, or the rest of a window whose end is known.
#[derive(Debug, Clone)]
pub struct Request {
    pub previous: Snapshot,
    /// The window's end, and the id up to which it has been read.
    pub window: Option<(Snapshot, i64)>,
}

/// A piece of the answer to a [`Request`]: `Nothing`, or `Opened` (unless the request named the window), `Rows` and `End`.
#[derive(Debug)]
pub enum Piece {
    /// There is nothing between the two snapshots.
    Nothing(Snapshot),
    /// There is a window, and PostgreSQL's clock says `now` (microseconds since 1970).
    Opened {
        current: Snapshot,
        now: i64,
    },
    Rows(Vec<PgRow>),
    End,
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
    pub fn start(postgres: &PostgresConfig, server: DateTime<Utc>) -> Self {
        let (requests, inbox) = mpsc::channel(1);
        let (outbox, pieces) = mpsc::channel(2);
        let options = postgres.options.clone().application_name("relay-reader");
        let task = tokio::spawn(async move {
            if let Err(error) = read(&options, server, inbox, &outbox).await {
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

async fn read(
    options: &PgConnectOptions,
    server: DateTime<Utc>,
    mut requests: mpsc::Receiver<Request>,
    pieces: &mpsc::Sender<Result<Piece, sqlx::Error>>,
) -> Result<(), sqlx::Error> {
    let silent = |_| {
        sqlx::Error::Io(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            "PostgreSQL does not answer",
        ))
    };
    let mut connection = timeout(PATIENCE, PgConnection::connect_with(options))
        .await
        .map_err(silent)??;
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
    while let Some(Request { previous, window }) = requests.recv().await {
        let (current, after) = if let Some(window) = window {
            window
        } else {
            let look = sqlx::query(LOOK).bind(&*previous.0).fetch_one(&mut connection);
            let row = timeout(PATIENCE, look).await.map_err(silent)??;
            let current = Snapshot(row.try_get::<&str, _>(0)?.into());
            if !row.try_get::<bool, _>(2)? {
                if pieces.send(Ok(Piece::Nothing(current))).await.is_err() {
                    return Ok(());
                }
                continue;
            }
            let opened = Piece::Opened {
                current: current.clone(),
                now: row.try_get(1)?,
            };
            if pieces.send(Ok(opened)).await.is_err() {
                return Ok(());
            }
            (current, 0)
        };
        let rows = sqlx::query(READ)
            .bind(&*previous.0)
            .bind(&*current.0)
            .bind(after)
            .fetch(&mut connection);
        let chunks = rows
            .ready_chunks(CHUNK)
            .map(|chunk| chunk.into_iter().collect::<Result<Vec<_>, _>>());
        let mut answer = chunks.map_ok(Piece::Rows).chain(stream::iter([Ok(Piece::End)]));
        while let Some(piece) = answer.try_next().await? {
            if pieces.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A parked event that is the first of its aggregate.
#[derive(Debug)]
pub struct Head {
    pub lane: u64,
    pub outbox_id: i64,
    pub due: bool,
}

/// The first unsent parked event of each aggregate.
pub async fn heads(connection: &mut PgConnection) -> Result<Vec<Head>, Error> {
    const HEADS: &str = "
        select distinct on (aggregate_type, aggregate_id)
               aggregate_type, aggregate_id, outbox_id, coalesce(next_attempt_at <= now(), true)
          from outbox_parked
         where sent_at is null
         order by aggregate_type, aggregate_id, outbox_id";
    let head = |row: &PgRow| {
        let lane = lane(row.try_get(0)?, row.try_get(1)?);
        Ok(Head {
            lane,
            outbox_id: row.try_get(2)?,
            due: row.try_get(3)?,
        })
    };
    let rows = sqlx::query(HEADS).fetch_all(connection).await;
    rows.and_then(|rows| rows.iter().map(head).collect())
        .map_err(doing("reading the parked events"))
}

/// The rows of parked events.
pub async fn parked(connection: &mut PgConnection, outbox_ids: &[i64]) -> Result<Vec<PgRow>, Error> {
    const PARKED: &str = "
        select log.outbox_id, log.xid, event_id, log.aggregate_type, log.aggregate_id, event_type, payload::text,
               headers ->> 'traceparent', correlation_id, created_at
          from outbox_parked parked
          join outbox_log log on log.xid = parked.xid and log.outbox_id = parked.outbox_id
         where parked.outbox_id = any ($1)";
    let rows = sqlx::query(PARKED).bind(outbox_ids).fetch_all(connection).await;
    rows.map_err(doing("reading the parked events"))
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
