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
mod tail;

use commerce_core::kafka::KafkaConfig;
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _, postgres::PgRow};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub use self::adopt::{AdoptError, Adopted, Inspection, adopt, inspect};
use self::tail::Message;
use crate::{
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
pub async fn examine(lease: &mut Lease, kafka: &KafkaConfig, stop: &CancellationToken) -> Result<(), Error> {
    let foreign = bounded(foreign(lease.connection()))
        .await
        .map_err(doing("looking for foreign transaction ids"))?;
    // Here Kafka is ahead, as long as rows are on their way.
    if let Some(Finding::Subscribed { .. }) = foreign {
        return refuse(foreign);
    }
    let mut reading = tail::read(kafka.clone());
    let read = loop {
        tokio::select! {
            read = &mut reading => break read.unwrap_or_else(|_| Err(Error::Kafka("reading ended early".to_owned()))),
            () = sleep(HEARTBEAT) => lease.heartbeat().await.map(drop)?,
            () = stop.cancelled() => return Ok(()),
        }
    };
    let doing = || doing("looking for what Kafka has in the outbox");
    let lost = match read {
        Ok(messages) => bounded(lost(lease.connection(), &messages))
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

/// What decides whether the transaction ids are this cluster's.
#[derive(Debug, Clone, Default)]
struct Ids {
    system_identifier: i64,
    /// The id after the last one that has ended.
    next: u64,
    /// The cluster that the last row of `outbox_history` names, and whether that row was copied.
    history: Option<(i64, bool)>,
    /// The highest `xmax` of the checkpoint's snapshots.
    checkpoint: u64,
    /// The highest id in the log.
    newest: Option<u64>,
    subscriptions: Option<String>,
}

impl Ids {
    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        let number = |index: usize| {
            let text = row.try_get::<Option<&str>, _>(index)?;
            text.map(str::parse)
                .transpose()
                .map_err(|error| sqlx::Error::Decode(Box::new(error)))
        };
        let history: Option<i64> = row.try_get(2)?;
        Ok(Self {
            system_identifier: row.try_get(0)?,
            next: number(1)?.unwrap_or_default(),
            history: history.zip(row.try_get(3)?),
            checkpoint: number(4)?.unwrap_or_default(),
            newest: number(5)?,
            subscriptions: row.try_get(6)?,
        })
    }

    /// The most telling of what is to be said of the ids; the rest follows from it.
    fn finding(&self) -> Option<Finding> {
        let here = self.system_identifier;
        match (&self.subscriptions, self.history, self.newest) {
            (Some(subscriptions), ..) => Some(Finding::Subscribed {
                subscriptions: subscriptions.clone(),
            }),
            (_, Some((from, true)), _) if from != here => Some(Finding::Copied { from, here }),
            _ if self.checkpoint > self.next => Some(Finding::Ahead {
                checkpoint: self.checkpoint,
            }),
            (.., Some(xid)) if xid >= self.next => Some(Finding::Future { xid }),
            _ => None,
        }
    }
}

/// Takes no transaction id.
async fn foreign(connection: &mut PgConnection) -> Result<Option<Finding>, sqlx::Error> {
    // The newest row, by the index; what is visible to this statement, and its snapshot, are of one moment.
    const IDS: &str = "
        with latest as (
            select system_identifier, xmin <> xid::xid as copied from outbox_history order by history_id desc limit 1
        ), log as (
            select 'outbox_log'::regclass::oid as id
            union all
            select inhrelid from pg_inherits where inhparent = 'outbox_log'::regclass
        )
        select (select system_identifier from pg_control_system()),
               pg_snapshot_xmax(pg_current_snapshot())::text,
               (select system_identifier from latest),
               (select copied from latest),
               greatest(pg_snapshot_xmax(snapshot), pg_snapshot_xmax(window_snapshot))::text,
               (select xid from outbox_log order by xid desc limit 1)::text,
               (select string_agg(distinct subname::text, ', ')
                  from pg_subscription join pg_subscription_rel on srsubid = pg_subscription.oid join log on log.id = srrelid
                 where subenabled)
          from relay_checkpoint";
    let row = sqlx::query(IDS).fetch_one(connection).await?;
    Ok(Ids::of(&row)?.finding())
}

/// Order ids go on so far above the highest one that is known to be lost: more orders may have been placed than were published.
const ORDER_ID_MARGIN: i64 = 1_000_000;

/// Looks the messages up in the log. Those that are missing are written down, and ids of orders given out above theirs from
/// now on, whatever will be decided: consumers have those orders.
async fn lost(connection: &mut PgConnection, messages: &[Message]) -> Result<Option<Finding>, sqlx::Error> {
    let missing = missing(connection, &messages.iter().collect::<Vec<_>>()).await?;
    let Some(last) = missing.iter().max_by_key(|message| message.created_at) else {
        return Ok(None);
    };
    let mut transaction = connection.begin().await?;
    record(&mut transaction, &missing).await?;
    skip_order_ids(&mut transaction).await?;
    transaction.commit().await?;
    Ok(Some(Finding::Lost {
        events: missing.len(),
        last: Message::clone(last),
    }))
}

async fn missing<'m>(
    connection: &mut PgConnection,
    messages: &[&'m Message],
) -> Result<Vec<&'m Message>, sqlx::Error> {
    // A row that was adopted has another xid than the message names. One whose day was dropped is missing for good reason;
    // days to come, as seen from a database that was set back, were not.
    const MISSING: &str = "
        with adopted as materialized (
            select array_agg(xid) || '3'::xid8 as xids from outbox_history
        ), days as materialized (
            select array_agg(relname::text) as kept, max(relname::text) as last
              from pg_inherits join pg_class on pg_class.oid = inhrelid
             where inhparent = 'outbox_log'::regclass and not inhdetachpending and relname ~ '^outbox_log_[0-9]{8}$'
        )
        select message.n
          from unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::uuid[]) with ordinality
               as message (xid, outbox_id, created_at, event_id, n)
         cross join adopted
         cross join days
         cross join lateral (
             select 'outbox_log_' || to_char(message.created_at at time zone 'UTC', 'YYYYMMDD') as name
         ) day
          left join lateral (
             select true as found
               from outbox_log log
              where log.xid = any (message.xid::xid8 || adopted.xids) and log.outbox_id = message.outbox_id
                and log.created_at = message.created_at and log.event_id = message.event_id
              limit 1
         ) known on true
         where known.found is null
           and (day.name = any (days.kept) or day.name > days.last)
           and not exists (select from outbox_lost lost
                            where lost.event_id = message.event_id and lost.accepted_at is not null)";
    // By the index, however old the statistics are.
    let mut transaction = connection.begin().await?;
    transaction.execute("set local enable_seqscan = off").await?;
    let missing = sqlx::query_scalar::<_, i64>(MISSING)
        .bind(column(messages, |message| message.xid.to_string()))
        .bind(column(messages, |message| message.outbox_id))
        .bind(column(messages, |message| message.created_at))
        .bind(column(messages, |message| message.event_id))
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    let message = |n: i64| messages.get(usize::try_from(n - 1).ok()?).copied();
    Ok(missing.into_iter().filter_map(message).collect())
}

async fn record(connection: &mut PgConnection, lost: &[&Message]) -> Result<(), sqlx::Error> {
    const RECORD: &str = "
        insert into outbox_lost
               (event_id, outbox_id, aggregate_id, created_at, topic, kafka_partition, kafka_offset)
        select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::timestamptz[], $5::text[], $6::integer[], $7::bigint[])
        on conflict (event_id) do nothing";
    sqlx::query(RECORD)
        .bind(column(lost, |message| message.event_id))
        .bind(column(lost, |message| message.outbox_id))
        .bind(column(lost, |message| message.aggregate_id.clone()))
        .bind(column(lost, |message| message.created_at))
        .bind(column(lost, |message| message.topic.clone()))
        .bind(column(lost, |message| message.partition))
        .bind(column(lost, |message| message.offset))
        .execute(connection)
        .await
        .map(drop)
}

fn column<T>(messages: &[&Message], value: impl Fn(&Message) -> T) -> Vec<T> {
    messages.iter().map(|message| value(message)).collect()
}

/// New orders get ids that no lost one has.
async fn skip_order_ids(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    const SKIP: &str = "
        select setval('orders_order_id_seq', lost.order_id + $1)
          from (select max(aggregate_id::bigint) as order_id from outbox_lost where aggregate_id ~ '^[0-9]{1,18}$') lost,
               orders_order_id_seq ids
         where ids.last_value < lost.order_id";
    sqlx::query(SKIP)
        .bind(ORDER_ID_MARGIN)
        .execute(connection)
        .await
        .map(drop)
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

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    /// A sound database, in the second epoch of transaction ids.
    fn sound() -> Ids {
        const EPOCH: u64 = 1 << 32;
        Ids {
            system_identifier: 7,
            next: EPOCH + 100,
            history: Some((7, false)),
            checkpoint: EPOCH + 100,
            newest: Some(EPOCH + 99),
            subscriptions: None,
        }
    }

    #[test]
    fn ids_that_are_this_clusters_are_no_finding() {
        let new = Ids {
            system_identifier: 7,
            next: 750,
            checkpoint: 1,
            ..Ids::default()
        };
        let dumped_and_restored_into_the_same_cluster = Ids {
            history: Some((7, true)),
            ..sound()
        };
        let upgraded = Ids {
            history: Some((6, false)),
            ..sound()
        };
        for ids in [new, sound(), dumped_and_restored_into_the_same_cluster, upgraded] {
            assert_eq!(ids.finding(), None, "{ids:?}");
        }
    }

    #[test]
    fn ids_of_another_cluster_are_found_also_where_only_the_epoch_tells() {
        let copied = Ids {
            history: Some((6, true)),
            next: 750,
            ..sound()
        };
        assert_eq!(copied.finding(), Some(Finding::Copied { from: 6, here: 7 }));
        let checkpoint = sound().next + 1;
        let ahead = Ids {
            checkpoint,
            ..sound()
        };
        assert_eq!(ahead.finding(), Some(Finding::Ahead { checkpoint }));
        let xid = sound().next + (1 << 32) - 50;
        let future = Ids {
            newest: Some(xid),
            ..sound()
        };
        assert_eq!(future.finding(), Some(Finding::Future { xid }));
    }
}
