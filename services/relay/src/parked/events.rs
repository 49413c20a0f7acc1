//! The parked events as they stand in the database, and the two things that a person can do to them.
//!
//! Each change is one statement with its conditions inside, so of two people, or a person and the relay, only one has
//! their way.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

/// A row of `outbox_parked`.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(super) struct ParkedEvent {
    pub(super) outbox_id: i64,
    /// `refused`, `waiting` (behind a refused one), `discarded` or `sent` (after all).
    pub(super) state: String,
    pub(super) aggregate_type: String,
    pub(super) aggregate_id: String,
    /// Not known where the outbox does not have the event any more.
    pub(super) event_type: Option<String>,
    pub(super) created_at: Option<DateTime<Utc>>,
    pub(super) parked_at: DateTime<Utc>,
    pub(super) attempts: i32,
    pub(super) last_error: Option<String>,
    /// Null: at once, where it is the first of its aggregate.
    pub(super) next_attempt_at: Option<DateTime<Utc>>,
    pub(super) sent_at: Option<DateTime<Utc>>,
    pub(super) discarded_at: Option<DateTime<Utc>>,
    pub(super) discard_reason: Option<String>,
    /// The first event of the same aggregate that is parked before it.
    pub(super) waits_behind: Option<i64>,
    /// How many events of the same aggregate are parked after it.
    pub(super) behind: i64,
    #[serde(skip)]
    pub(super) xid: String,
    /// How many there would be without a limit.
    #[serde(skip)]
    pub(super) total: i64,
}

/// What only the outbox knows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Content {
    pub(super) event_id: Uuid,
    pub(super) aggregate_version: i64,
    pub(super) correlation_id: String,
    pub(super) headers: Box<RawValue>,
    pub(super) payload: Box<RawValue>,
}

/// Which events to read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which<'a> {
    /// The first of each aggregate.
    Heads,
    /// All that were not sent.
    Unsent,
    These(&'a [i64]),
}

/// The events in the order of their ids, `limit` at most.
pub(super) async fn read(
    connection: &mut PgConnection,
    which: Which<'_>,
    limit: Option<i64>,
) -> Result<Vec<ParkedEvent>, sqlx::Error> {
    const READ: &str = "
        with chosen as materialized (
            select parked.*, count(*) over () as total
              from outbox_parked parked
             where case when $1::bigint[] is not null then outbox_id = any ($1)
                        when $2 then sent_at is null
                        else sent_at is null and discarded_at is null and not exists (
                            select from outbox_parked earlier
                             where earlier.aggregate_type = parked.aggregate_type
                               and earlier.aggregate_id = parked.aggregate_id
                               and earlier.outbox_id < parked.outbox_id
                               and earlier.sent_at is null and earlier.discarded_at is null)
                   end
             order by outbox_id
             limit $3
        )
        select chosen.outbox_id,
               case when sent_at is not null then 'sent'
                    when discarded_at is not null then 'discarded'
                    when last_error is not null then 'refused'
                    else 'waiting'
               end as state,
               chosen.aggregate_type, chosen.aggregate_id, log.event_type, log.created_at, parked_at, attempts,
               last_error,
               case when sent_at is null and discarded_at is null then next_attempt_at end as next_attempt_at,
               sent_at, discarded_at, discard_reason, waits_behind, behind, chosen.xid::text as xid, total
          from chosen
         cross join lateral (
            select min(other.outbox_id) filter (where other.outbox_id < chosen.outbox_id) as waits_behind,
                   count(*) filter (where other.outbox_id > chosen.outbox_id) as behind
              from outbox_parked other
             where other.aggregate_type = chosen.aggregate_type and other.aggregate_id = chosen.aggregate_id
               and other.sent_at is null and other.discarded_at is null
         ) others
          left join outbox_log log on log.xid = chosen.xid and log.outbox_id = chosen.outbox_id
         order by chosen.outbox_id";
    let (ids, unsent) = match which {
        Which::Heads => (None, false),
        Which::Unsent => (None, true),
        Which::These(ids) => (Some(ids), false),
    };
    let read = sqlx::query_as(READ).bind(ids).bind(unsent).bind(limit);
    read.fetch_all(connection).await
}

/// The rest of an event, unless the outbox does not have it any more.
pub(super) async fn content(
    connection: &mut PgConnection,
    event: &ParkedEvent,
) -> Result<Option<Content>, sqlx::Error> {
    const CONTENT: &str = "
        select event_id, aggregate_version, correlation_id, jsonb_pretty(headers), jsonb_pretty(payload)
          from outbox_log
         where xid = $1::xid8 and outbox_id = $2";
    let row = sqlx::query(CONTENT).bind(&event.xid).bind(event.outbox_id);
    let Some(row) = row.fetch_optional(connection).await? else {
        return Ok(None);
    };
    let raw = |column: usize| {
        RawValue::from_string(row.try_get(column)?).map_err(|error| sqlx::Error::Decode(error.into()))
    };
    Ok(Some(Content {
        event_id: row.try_get(0)?,
        aggregate_version: row.try_get(1)?,
        correlation_id: row.try_get(2)?,
        headers: raw(3)?,
        payload: raw(4)?,
    }))
}

/// Lets these events be tried again now; returns those that can be.
pub(super) async fn requeue(
    connection: &mut PgConnection,
    outbox_ids: &[i64],
) -> Result<Vec<i64>, sqlx::Error> {
    const REQUEUE: &str = "
        update outbox_parked set next_attempt_at = now()
         where outbox_id = any ($1) and sent_at is null and discarded_at is null
        returning outbox_id";
    sqlx::query_scalar(REQUEUE)
        .bind(outbox_ids)
        .fetch_all(connection)
        .await
}

/// Lets all refused events be tried again now; returns how many those are, and how many wait behind them.
pub(super) async fn requeue_all(connection: &mut PgConnection) -> Result<(i64, i64), sqlx::Error> {
    const REQUEUE: &str = "
        with requeued as (
            update outbox_parked set next_attempt_at = now()
             where last_error is not null and sent_at is null and discarded_at is null
            returning outbox_id
        )
        select (select count(*) from requeued),
               (select count(*) from outbox_parked
                 where last_error is null and sent_at is null and discarded_at is null)";
    sqlx::query_as(REQUEUE).fetch_one(connection).await
}

/// Gives these events up; returns those that had neither been sent nor discarded.
pub(super) async fn discard(
    connection: &mut PgConnection,
    outbox_ids: &[i64],
    reason: &str,
) -> Result<Vec<i64>, sqlx::Error> {
    const DISCARD: &str = "
        update outbox_parked set discarded_at = now(), discard_reason = $2
         where outbox_id = any ($1) and sent_at is null and discarded_at is null
        returning outbox_id";
    sqlx::query_scalar(DISCARD)
        .bind(outbox_ids)
        .bind(reason)
        .fetch_all(connection)
        .await
}

/// Whether a relay is there to act on it.
pub(super) async fn relay_is_active(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    const ACTIVE: &str = "select coalesce(lease_expires_at > clock_timestamp(), false) from relay_checkpoint";
    sqlx::query_scalar(ACTIVE).fetch_one(connection).await
}
