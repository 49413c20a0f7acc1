//! The lease and the checkpoint: the one row of `relay_checkpoint`.
//!
//! Each claim of the lease takes a new fencing token, and every change of the row demands it, so a relay that lost the
//! lease without noticing (a paused process, a network that was cut) can move nothing. All of it goes over the one
//! connection that made the claim. That is also what makes it right to remember snapshots between statements: a server
//! that crashed, or another one that took over, may hand out transaction ids again which the relay has seen, but only
//! after this connection has broken and the relay has started again from the row.

use std::time::Duration;

use chrono::{DateTime, Utc};
use commerce_core::postgres::PostgresConfig;
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _, postgres::PgRow};
use tokio::time::timeout;

use crate::{
    error::{Error, doing},
    invariants::advances,
    tracker::{Checkpoint, Snapshot},
};

/// How long a lease lasts when it is not renewed; the heartbeat renews it every [`HEARTBEAT`].
pub const TTL: Duration = Duration::from_millis(2_500);
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// NOTIFY here tells the standbys that the lease has been released.
pub const CHANNEL: &str = "commerce_relay_lease";

/// A connection to PostgreSQL that may become the holder of the lease.
#[derive(Debug)]
pub struct Candidate {
    connection: PgConnection,
}

/// The right to publish, until it is lost.
#[derive(Debug)]
pub struct Lease {
    connection: PgConnection,
    token: i64,
    /// As it was read or saved last.
    checkpoint: Checkpoint,
    server: DateTime<Utc>,
}

/// An event that goes into `outbox_parked`; without an error it waits behind another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parking {
    pub outbox_id: i64,
    pub xid: u64,
    pub error: Option<String>,
}

/// How another attempt to publish a parked event ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub outbox_id: i64,
    pub error: Option<String>,
}

/// What a heartbeat learns.
#[derive(Debug, Clone, Copy)]
pub struct Pulse {
    /// The last outbox id that was handed out.
    pub last_id: i64,
    /// Events that Kafka refused or that wait behind one.
    pub parked: i64,
    /// PostgreSQL's clock, in microseconds since 1970.
    pub now: i64,
}

impl Candidate {
    pub async fn connect(postgres: &PostgresConfig) -> Result<Self, Error> {
        let options = postgres.options.clone().application_name("relay");
        let connect = bounded(PgConnection::connect_with(&options));
        Ok(Self {
            connection: connect.await.map_err(doing("connecting to PostgreSQL"))?,
        })
    }

    /// Takes the lease if nobody has it. Otherwise says how long it lasts unless it is renewed.
    pub async fn claim(mut self, holder: &str) -> Result<Claim, Error> {
        // An end far in the future was written before the clock was set back, and would never come.
        const CLAIM: &str = "
            update relay_checkpoint
               set token = token + 1, holder = $1,
                   lease_expires_at = clock_timestamp() + make_interval(secs => $2)
             where lease_expires_at is null
                or lease_expires_at not between clock_timestamp() and clock_timestamp() + interval '1 minute'
            returning token, snapshot::text, window_snapshot::text, position, pg_postmaster_start_time()";
        const REMAINING: &str = "
            select coalesce(extract(epoch from lease_expires_at - clock_timestamp()), 0)::float8 from relay_checkpoint";
        let doing = || doing("claiming the relay's lease");
        let claim = sqlx::query(CLAIM).bind(holder).bind(TTL.as_secs_f64());
        let Some(row) = bounded(claim.fetch_optional(&mut self.connection))
            .await
            .map_err(doing())?
        else {
            let remaining = sqlx::query_scalar(REMAINING).fetch_one(&mut self.connection);
            let remaining: f64 = bounded(remaining).await.map_err(doing())?;
            return Ok(Claim::Taken(
                self,
                Duration::from_secs_f64(remaining.clamp(0.01, 60.0)),
            ));
        };
        // A checkpoint that a crash of the server forgets costs duplicates, never an event.
        bounded(self.connection.execute("set synchronous_commit = off"))
            .await
            .map_err(doing())?;
        let checkpoint = decode(&row).map_err(doing())?;
        let lease = Lease {
            connection: self.connection,
            token: row.try_get(0).map_err(doing())?,
            checkpoint: checkpoint.clone(),
            server: row.try_get(4).map_err(doing())?,
        };
        Ok(Claim::Held(lease, checkpoint))
    }
}

/// The outcome of [`Candidate::claim`].
#[derive(Debug)]
pub enum Claim {
    Held(Lease, Checkpoint),
    Taken(Candidate, Duration),
}

impl Lease {
    /// Renews the lease, and looks at the backlog while it is there.
    pub async fn heartbeat(&mut self) -> Result<Pulse, Error> {
        const HEARTBEAT: &str = "
            with renewed as (
                update relay_checkpoint set lease_expires_at = clock_timestamp() + make_interval(secs => $2)
                 where token = $1 returning token
            )
            select (select last_value from outbox_log_id),
                   (select count(*) from outbox_parked where sent_at is null and discarded_at is null),
                   (extract(epoch from clock_timestamp()) * 1000000)::bigint
              from renewed";
        let doing = || doing("renewing the relay's lease");
        let heartbeat = sqlx::query(HEARTBEAT).bind(self.token).bind(TTL.as_secs_f64());
        let row = bounded(heartbeat.fetch_optional(&mut self.connection))
            .await
            .map_err(doing())?;
        let row = row.ok_or(Error::LeaseLost)?;
        let pulse = || {
            Ok(Pulse {
                last_id: row.try_get(0)?,
                parked: row.try_get(1)?,
                now: row.try_get(2)?,
            })
        };
        pulse().map_err(doing())
    }

    /// Moves the checkpoint and records what was parked and retried, all in one transaction.
    pub async fn save(
        &mut self,
        checkpoint: &Checkpoint,
        parked: &[Parking],
        attempts: &[Attempt],
    ) -> Result<(), Error> {
        // Waiting time after the n-th refusal: 2^(n-1) s, at most five minutes.
        const SAVE: &str = "
            with moved as (
                update relay_checkpoint
                   set snapshot = $2::pg_snapshot, window_snapshot = $3::pg_snapshot, position = $4, updated_at = now()
                 where token = $1
                returning snapshot, window_snapshot, position
            ), progress as (
                insert into relay_progress (sent_at, snapshot, window_snapshot, position)
                select now(), snapshot, coalesce(window_snapshot, snapshot), position from moved
                on conflict (sent_at) do update
                   set snapshot = excluded.snapshot, window_snapshot = excluded.window_snapshot,
                       position = excluded.position
            ), parked as (
                insert into outbox_parked
                       (outbox_id, xid, aggregate_type, aggregate_id, attempts, last_error, next_attempt_at)
                select log.outbox_id, log.xid, log.aggregate_type, log.aggregate_id,
                       (fresh.error is not null)::integer, fresh.error,
                       case when fresh.error is not null then now() + interval '1 second' end
                  from moved
                 cross join unnest($5::bigint[], $6::text[], $7::text[]) fresh (outbox_id, xid, error)
                  join outbox_log log on log.xid = fresh.xid::xid8 and log.outbox_id = fresh.outbox_id
                on conflict (outbox_id) do update
                   set last_error = excluded.last_error, next_attempt_at = excluded.next_attempt_at, sent_at = null
                 where outbox_parked.discarded_at is null
            ), retried as (
                update outbox_parked parked
                   set attempts = parked.attempts + 1,
                       last_error = coalesce(attempt.error, parked.last_error),
                       next_attempt_at = now() + least(power(2, least(parked.attempts, 20)), 300) * interval '1 second',
                       sent_at = case when attempt.error is null then now() end
                  from moved
                 cross join unnest($8::bigint[], $9::text[]) attempt (outbox_id, error)
                 where parked.outbox_id = attempt.outbox_id
            )
            select 1 from moved";
        advances(&self.checkpoint, checkpoint)?;
        let doing = || doing("saving the relay's checkpoint");
        let (window, position) = match &checkpoint.window {
            Some((window, position)) => (Some(&*window.0), *position),
            None => (None, 0),
        };
        let save = sqlx::query(SAVE)
            .bind(self.token)
            .bind(&*checkpoint.snapshot.0)
            .bind(window)
            .bind(position)
            .bind(parked.iter().map(|event| event.outbox_id).collect::<Vec<_>>())
            .bind(
                parked
                    .iter()
                    .map(|event| event.xid.to_string())
                    .collect::<Vec<_>>(),
            )
            .bind(parked.iter().map(|event| event.error.clone()).collect::<Vec<_>>())
            .bind(
                attempts
                    .iter()
                    .map(|attempt| attempt.outbox_id)
                    .collect::<Vec<_>>(),
            )
            .bind(
                attempts
                    .iter()
                    .map(|attempt| attempt.error.clone())
                    .collect::<Vec<_>>(),
            );
        let moved = bounded(save.fetch_optional(&mut self.connection))
            .await
            .map_err(doing())?;
        moved.map(drop).ok_or(Error::LeaseLost)?;
        self.checkpoint = checkpoint.clone();
        Ok(())
    }

    /// Gives the lease up, so that a standby takes it at once.
    pub async fn release(mut self) -> Result<(), Error> {
        const RELEASE: &str = "
            with released as (
                update relay_checkpoint set lease_expires_at = null, holder = null where token = $1 returning token
            )
            select pg_notify($2, '') from released";
        let release = sqlx::query(RELEASE).bind(self.token).bind(CHANNEL);
        bounded(release.execute(&mut self.connection))
            .await
            .map_err(doing("releasing the relay's lease"))?;
        // The server notices by itself when this fails.
        let _ = bounded(self.connection.close()).await;
        Ok(())
    }

    /// Since when the server has been up that granted it, which tells it from any other.
    #[must_use]
    pub fn server(&self) -> DateTime<Utc> {
        self.server
    }

    /// The connection, for reading what must not be older than the last save.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// A server that does not answer for as long as the lease lasts counts as away.
pub async fn bounded<T>(statement: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let silent = || {
        sqlx::Error::Io(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            "PostgreSQL does not answer",
        ))
    };
    timeout(TTL, statement).await.unwrap_or_else(|_| Err(silent()))
}

fn decode(row: &PgRow) -> Result<Checkpoint, sqlx::Error> {
    let snapshot = Snapshot(row.try_get::<&str, _>(1)?.into());
    let window = row
        .try_get::<Option<&str>, _>(2)?
        .map(|window| Snapshot(window.into()));
    let position = row.try_get(3)?;
    Ok(Checkpoint {
        snapshot,
        window: window.map(|window| (window, position)),
    })
}
