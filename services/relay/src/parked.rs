//! Parked events: what Kafka refuses for the event's own fault, and the later events of the same aggregate, which wait
//! behind it.
//!
//! The first of an aggregate is tried again with growing pauses until Kafka takes it or somebody discards it. A
//! discarded event stays in the outbox and in `outbox_parked`, is never published, and holds nobody up. [`Command`] is
//! for whoever is on call; it changes rows of `outbox_parked` only, which the active relay reads again every second.

mod command;
mod events;
mod text;

use std::collections::HashSet;

use sqlx::{PgConnection, Row as _, postgres::PgRow};

pub use self::command::Command;
use crate::{
    error::{Error, doing},
    lanes::lane,
    tracker::Snapshot,
};

/// A parked event that is the first of its aggregate.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) lane: u64,
    pub(crate) outbox_id: i64,
    pub(crate) due: bool,
}

/// The first parked event of each aggregate.
pub(crate) async fn heads(connection: &mut PgConnection) -> Result<Vec<Head>, Error> {
    const HEADS: &str = "
        select distinct on (aggregate_type, aggregate_id)
               aggregate_type, aggregate_id, outbox_id, coalesce(next_attempt_at <= now(), true)
          from outbox_parked
         where sent_at is null and discarded_at is null
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

/// The rows of parked events, as the outbox has them. Those that were discarded a moment ago are not among them.
pub(crate) async fn rows(connection: &mut PgConnection, outbox_ids: &[i64]) -> Result<Vec<PgRow>, Error> {
    const ROWS: &str = "
        select log.outbox_id, log.xid, event_id, log.aggregate_type, log.aggregate_id, event_type, payload::text,
               headers ->> 'traceparent', correlation_id, created_at
          from outbox_parked parked
          join outbox_log log on log.xid = parked.xid and log.outbox_id = parked.outbox_id
         where parked.outbox_id = any ($1) and parked.sent_at is null and parked.discarded_at is null";
    let rows = sqlx::query(ROWS).bind(outbox_ids).fetch_all(connection).await;
    rows.map_err(doing("reading the parked events"))
}

/// The discarded events that are not behind `published`: a relay that starts there reads them again, and must pass over
/// them.
pub(crate) async fn discarded(
    connection: &mut PgConnection,
    published: &Snapshot,
) -> Result<HashSet<i64>, Error> {
    const DISCARDED: &str = "
        select outbox_id from outbox_parked
         where discarded_at is not null and sent_at is null and not pg_visible_in_snapshot(xid, $1::pg_snapshot)";
    let ids = sqlx::query_scalar(DISCARDED).bind(&*published.0);
    let ids = ids.fetch_all(connection).await;
    ids.map(|ids| ids.into_iter().collect())
        .map_err(doing("reading the discarded events"))
}
