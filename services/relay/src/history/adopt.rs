//! The way out: taking over what is there, once a person has looked at it.
//!
//! Foreign rows get ids that are this cluster's: the unpublished ones that of the adopting transaction itself, so that they are
//! one window, in the order of their outbox ids; the others, where it is needed, one that every snapshot sees. The new
//! checkpoint is a snapshot from before that transaction had its id. The log is locked against writers meanwhile, which
//! waits for those under way: what is in the log then is judged here, and whatever comes later is newer than the snapshot.

use std::fmt;

use commerce_core::postgres::PostgresConfig;
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};

use super::{Finding, ids::foreign, lost::skip_order_ids, tail::Message};
use crate::error::{Error, doing};

/// What is in the way of publishing, and what adopting would do about it.
#[derive(Debug, Clone)]
pub struct Inspection {
    findings: Vec<Finding>,
    foreign: Option<Foreign>,
    /// Events with foreign ids, or of a foreign checkpoint, that would be published; and the others, which count as published.
    unpublished: i64,
    published: i64,
    lost: i64,
}

/// What adopting has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// Events that will be published. Without foreign ids, none were looked at.
    pub unpublished: Option<u64>,
    /// Lost events that no longer stop the relay.
    pub lost: u64,
}

/// Why nothing was adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error(transparent)]
    Failed(#[from] Error),
    #[error(
        "logical replication still writes the outbox (subscription {0}): drop the subscription or disable it first"
    )]
    Subscribed(String),
}

/// Which rows have ids that mean nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Foreign {
    /// The checkpoint is this cluster's; rows of transactions that are yet to come are not.
    Rows,
    /// The checkpoint, and the rows that came with it.
    Checkpoint,
}

/// Looks what stands in the way. Reads the whole log where ids are foreign.
pub async fn inspect(postgres: &PostgresConfig) -> Result<Inspection, Error> {
    let mut connection = connect(postgres).await?;
    look(&mut connection)
        .await
        .map_err(doing("inspecting the outbox"))
}

/// Makes what is there the history to go on with. A relay that is at work begins a new term.
pub async fn adopt(postgres: &PostgresConfig) -> Result<Adopted, AdoptError> {
    let mut connection = connect(postgres).await?;
    let found = foreign(&mut connection)
        .await
        .map_err(doing("inspecting the outbox"))?;
    let mut transaction = connection.begin().await.map_err(doing("adopting the outbox"))?;
    let unpublished = if found.is_none() {
        None
    } else {
        transaction
            .execute("set local lock_timeout = '10s'; lock table outbox_log in share row exclusive mode")
            .await
            .map_err(doing("waiting for the transactions that write the outbox"))?;
        take_over(&mut transaction).await?
    };
    let lost = accept(&mut transaction)
        .await
        .map_err(doing("accepting lost events"))?;
    transaction.commit().await.map_err(doing("adopting the outbox"))?;
    Ok(Adopted { unpublished, lost })
}

async fn connect(postgres: &PostgresConfig) -> Result<PgConnection, Error> {
    let options = postgres.options.clone().application_name("relay-adopt");
    PgConnection::connect_with(&options)
        .await
        .map_err(doing("connecting to PostgreSQL"))
}

impl Foreign {
    fn of(finding: &Finding) -> Option<Self> {
        match finding {
            Finding::Copied { .. } | Finding::Ahead { .. } => Some(Self::Checkpoint),
            Finding::Future { .. } => Some(Self::Rows),
            Finding::Subscribed { .. } | Finding::Lost { .. } => None,
        }
    }
}

// Whether a row of `log` is to be published; $1 is a snapshot of now, and $2 whether the checkpoint is foreign. Such a checkpoint
// says of a row that came with it whether it was published. Rows that were written here since have their own transaction in
// `xmin` and are newer than the checkpoint, and for either reason are not published, whatever it says. Where the checkpoint
// is not foreign, it says the right thing of all rows but those that it cannot know. Parked events have a rule of their own.
macro_rules! unpublished {
    () => {
        "not exists (select from outbox_parked parked where parked.outbox_id = log.outbox_id and parked.xid = log.xid)
         and case when $2 then
                 log.xmin = log.xid::xid
                 or log.created_at >= checkpoint.updated_at
                 or not (pg_visible_in_snapshot(log.xid, checkpoint.snapshot)
                         or (checkpoint.window_snapshot is not null
                             and pg_visible_in_snapshot(log.xid, checkpoint.window_snapshot)
                             and log.outbox_id <= checkpoint.position))
             else not pg_visible_in_snapshot(log.xid, $1::pg_snapshot)
             end"
    };
}

async fn look(connection: &mut PgConnection) -> Result<Inspection, sqlx::Error> {
    const COUNT: &str = concat!(
        "select count(*) filter (where ",
        unpublished!(),
        "), count(*) from outbox_log log cross join relay_checkpoint checkpoint"
    );
    const LOST: &str = "
        select count(*) over (), topic, kafka_partition, kafka_offset, outbox_id, event_id, aggregate_id, created_at
          from outbox_lost
         where accepted_at is null
         order by created_at desc
         limit 1";
    let mut findings = Vec::from_iter(foreign(&mut *connection).await?);
    let foreign = findings.first().and_then(Foreign::of);
    let (mut unpublished, mut all) = (0, 0);
    if let Some(foreign) = foreign {
        let count = sqlx::query_as(COUNT)
            .bind(snapshot(&mut *connection).await?)
            .bind(foreign == Foreign::Checkpoint);
        (unpublished, all) = count.fetch_one(&mut *connection).await?;
    }
    let mut lost = 0;
    if let Some(row) = sqlx::query(LOST).fetch_optional(connection).await? {
        lost = row.try_get(0)?;
        findings.push(Finding::Lost {
            events: usize::try_from(lost).unwrap_or_default(),
            last: Message {
                topic: row.try_get(1)?,
                partition: row.try_get(2)?,
                offset: row.try_get(3)?,
                xid: 0,
                outbox_id: row.try_get(4)?,
                event_id: row.try_get(5)?,
                aggregate_id: row.try_get(6)?,
                created_at: row.try_get(7)?,
            },
        });
    }
    Ok(Inspection {
        findings,
        foreign,
        unpublished,
        published: all - unpublished,
        lost,
    })
}

/// Gives foreign rows ids of this cluster. The log is locked.
async fn take_over(connection: &mut PgConnection) -> Result<Option<u64>, AdoptError> {
    let doing = || doing("adopting the outbox");
    // Somebody else may have been faster.
    let found = foreign(&mut *connection).await.map_err(doing())?;
    if let Some(Finding::Subscribed { subscriptions }) = found {
        return Err(AdoptError::Subscribed(subscriptions));
    }
    match found.as_ref().and_then(Foreign::of) {
        None => Ok(None),
        Some(foreign) => Ok(Some(rewrite(connection, foreign).await.map_err(doing())?)),
    }
}

async fn rewrite(connection: &mut PgConnection, foreign: Foreign) -> Result<u64, sqlx::Error> {
    // A relay that is at work can save nothing any more.
    const FENCE: &str =
        "update relay_checkpoint set token = token + 1, holder = null, lease_expires_at = null";
    const UNPUBLISHED: &str = concat!(
        "update outbox_log log set xid = pg_current_xact_id() from relay_checkpoint checkpoint where ",
        unpublished!()
    );
    const PUBLISHED: &str = "
        update outbox_log set xid = '3'
         where xid <> pg_current_xact_id() and not pg_visible_in_snapshot(xid, $1::pg_snapshot)";
    const PARKED: &str =
        "update outbox_parked set xid = '3' where not pg_visible_in_snapshot(xid, $1::pg_snapshot)";
    const CHECKPOINT: &str = "
        update relay_checkpoint
           set snapshot = $1::pg_snapshot, window_snapshot = null, position = 0, updated_at = now()";
    // What it says is said in foreign ids.
    const PROGRESS: &str = "delete from relay_progress";
    const HISTORY: &str = "
        insert into outbox_history (history_id, system_identifier)
        select (select coalesce(max(history_id), 0) + 1 from outbox_history), system_identifier
          from pg_control_system()";
    // Logical replication leaves sequences behind.
    const OUTBOX_IDS: &str = "
        select setval('outbox_log_id', log.id)
          from (select max(outbox_id) as id from outbox_log) log, outbox_log_id ids
         where ids.last_value < log.id";
    const ORDER_IDS: &str = "
        select setval('orders_order_id_seq', orders.id)
          from (select max(order_id) as id from orders) orders, orders_order_id_seq ids
         where ids.last_value < orders.id";
    // This transaction has no id yet, so its own will not be visible in this snapshot.
    let snapshot = snapshot(&mut *connection).await?;
    connection.execute(FENCE).await?;
    let unpublished = sqlx::query(UNPUBLISHED)
        .bind(&snapshot)
        .bind(foreign == Foreign::Checkpoint);
    let unpublished = unpublished.execute(&mut *connection).await?.rows_affected();
    for statement in [PUBLISHED, PARKED] {
        sqlx::query(statement)
            .bind(&snapshot)
            .execute(&mut *connection)
            .await?;
    }
    if foreign == Foreign::Checkpoint {
        sqlx::query(CHECKPOINT)
            .bind(&snapshot)
            .execute(&mut *connection)
            .await?;
        connection.execute(PROGRESS).await?;
    }
    for statement in [HISTORY, OUTBOX_IDS, ORDER_IDS] {
        connection.execute(statement).await?;
    }
    Ok(unpublished)
}

async fn snapshot(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("select pg_current_snapshot()::text")
        .fetch_one(connection)
        .await
}

async fn accept(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    const ACCEPT: &str = "update outbox_lost set accepted_at = now() where accepted_at is null";
    skip_order_ids(&mut *connection).await?;
    Ok(connection.execute(ACCEPT).await?.rows_affected())
}

impl Inspection {
    /// Nothing is in the way.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_sound() {
            return f.write_str("As far as PostgreSQL knows, nothing is in the way of publishing.");
        }
        f.write_str("Nothing is published, since")?;
        for finding in &self.findings {
            write!(f, "\n  - {finding}")?;
        }
        f.write_str("\nAdopting what is there will")?;
        match self.foreign {
            None => {}
            Some(Foreign::Rows) => write!(f, "\n  - publish {} events", self.unpublished)?,
            Some(Foreign::Checkpoint) => write!(
                f,
                "\n  - publish {} events, and take {} for published; when they were is forgotten",
                self.unpublished, self.published
            )?,
        }
        if self.lost > 0 {
            write!(
                f,
                "\n  - accept that these {} events stay in Kafka and in what was made of it, without an order in PostgreSQL \
                 (SELECT * FROM outbox_lost)",
                self.lost
            )?;
        }
        if self.foreign.is_none() && self.lost == 0 {
            f.write_str("\n  - be possible when that has ended")?;
        }
        Ok(())
    }
}

impl fmt::Display for Adopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unpublished {
            Some(events) => write!(f, "Adopted the outbox: {events} events are to be published.")?,
            None => f.write_str("Adopted the outbox as it is.")?,
        }
        if self.lost > 0 {
            write!(f, " Accepted {} lost events.", self.lost)?;
        }
        Ok(())
    }
}
