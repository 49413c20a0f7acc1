//! Whose history it is: whether this database is the one that was published from.
//!
//! The checkpoint and the log speak in transaction ids, which mean something only in the PostgreSQL cluster that handed them
//! out, and what Kafka has may be more than a database knows that was set back. Going on regardless would lose events without
//! a word: new ones would count as published, or orders would get the ids of others. So each term of the active relay begins
//! with [`examine`], and where that finds something, nothing is published until a person has decided ([`adopt`]).
//!
//! **Foreign ids.** Rows that were copied from another cluster have its ids. It is known by the last row of
//! `outbox_history` (see the migration), by a checkpoint that is ahead of this cluster's ids, and by rows that are: a row
//! that is visible was written by a transaction that has ended, so its id is below the next one, but for rows that came
//! with theirs. A physical copy, `pg_upgrade` and a dump restored into the same cluster keep or continue the ids: they
//! are none of this. Nor is a crash: the transaction that moved the checkpoint took its id after the snapshot was
//! taken, so where the checkpoint survived, ids go on above it.
//!
//! **Lost events.** A database that was restored to an earlier moment, or replaced by a standby that lacked the last commits, is
//! sound in itself. Only Kafka knows better: the last messages of each partition ([`tail`]) name their rows in the outbox,
//! and one whose row is not there was published by a transaction that is no more. An ordinary crash makes no such message: a
//! transaction is visible to others only once its commit is on disk (`synchronous_commit` on, as it is for orders) and, where
//! standbys are synchronous, on those; what such a server forgets nobody has read. A wait for a standby that was cut
//! short, an asynchronous standby or `synchronous_commit = off` can lose what was read; then this finds it, and rightly.

mod adopt;
mod ids;
mod lost;
mod tail;

use sqlx::PgConnection;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub use self::adopt::{AdoptError, Adopted, Inspection, adopt, inspect};
use self::{ids::foreign, lost::lost, tail::Message};
use crate::{
    Config,
    error::{Error, doing},
    lease::{HEARTBEAT, Lease, bounded},
};

/// Why nothing can be published from this database as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    /// Checkpoint and log were copied row by row out of the cluster with this system identifier.
    Copied { from: i64, here: i64 },
    /// The checkpoint is beyond the transactions of this cluster.
    Ahead { checkpoint: u64 },
    /// The log has a row of a transaction that is yet to come.
    Future { xid: u64 },
    /// Subscriptions write the log: it is another cluster's.
    Subscribed { subscriptions: String },
    /// Kafka has events that the log has not.
    Lost { events: usize, last: Message },
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Copied { from, here } => write!(
                f,
                "the outbox was copied from another PostgreSQL server (system identifier {from}; this one is {here}), whose \
                 transaction ids mean nothing here"
            ),
            Self::Ahead { checkpoint } => write!(
                f,
                "the relay's checkpoint is at transaction {checkpoint}, which this PostgreSQL server has not come to yet: its \
                 ids went back"
            ),
            Self::Future { xid } => write!(
                f,
                "the outbox has rows of transaction {xid}, which this PostgreSQL server has not come to yet: they came from \
                 another one"
            ),
            Self::Subscribed { subscriptions } => write!(
                f,
                "logical replication writes the outbox here (subscription {subscriptions}): it is published where it comes from"
            ),
            Self::Lost { events, last } => write!(
                f,
                "Kafka has events that the outbox has not, as after a restored backup or a failover: {events} at the ends of its \
                 topics, the last at offset {} of {}/{}, event {} of order {}, {}",
                last.offset,
                last.topic,
                last.partition,
                last.event_id,
                last.aggregate_id,
                last.created_at.format("%Y-%m-%d %H:%M:%S%.6f UTC")
            ),
        }
    }
}

/// Fails with [`Error::History`] where something was found, and otherwise with [`Error::Kafka`] where Kafka could not be asked. The lease
/// is renewed meanwhile. Returns early on `stop`.
pub async fn examine(lease: &mut Lease, config: &Config, stop: &CancellationToken) -> Result<(), Error> {
    let foreign = bounded(foreign(lease.connection()))
        .await
        .map_err(doing("looking for foreign transaction ids"))?;
    // Here Kafka is ahead, as long as rows are on their way.
    if let Some(Finding::Subscribed { .. }) = foreign {
        return refuse(foreign);
    }
    let mut reading = tail::read(config.kafka.clone());
    let read = loop {
        tokio::select! {
            read = &mut reading => break read.unwrap_or_else(|_| Err(Error::Kafka("reading ended early".to_owned()))),
            () = sleep(HEARTBEAT) => lease.heartbeat().await.map(drop)?,
            () = stop.cancelled() => return Ok(()),
        }
    };
    let doing = || doing("looking for what Kafka has in the outbox");
    let lost = match read {
        Ok(messages) => bounded(lost(lease.connection(), &messages, config.outbox_retention))
            .await
            .map_err(doing())?,
        Err(error) if foreign.is_none() => return Err(error),
        Err(error) => {
            tracing::debug!(%error, "the ends of the topics");
            None
        }
    };
    if foreign.is_none() && lost.is_none() {
        return bounded(settle(lease.connection())).await.map_err(doing());
    }
    refuse(foreign.into_iter().chain(lost))
}

fn refuse(findings: impl IntoIterator<Item = Finding>) -> Result<(), Error> {
    let findings: Vec<_> = findings.into_iter().map(|finding| finding.to_string()).collect();
    Err(Error::History(findings.join("; ")))
}

/// Nothing was found: says so where it was not said yet, and takes back what was found before and is no more.
async fn settle(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    const SETTLE: &str = "
        with refuted as (
            delete from outbox_lost where accepted_at is null
        )
        insert into outbox_history (history_id, system_identifier)
        select coalesce(latest.history_id, 0) + 1, here.system_identifier
          from pg_control_system() here
          left join (select * from outbox_history order by history_id desc limit 1) latest on true
         where here.system_identifier is distinct from latest.system_identifier";
    sqlx::query(SETTLE).execute(connection).await.map(drop)
}
