//! The outbox of one party: a database of its own, filled at once or at a pace.

use std::{
    collections::HashSet,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use commerce_core::{
    event::WAKE_CHANNEL,
    postgres::{migrate, parse_url},
    testing::Postgres,
};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use uuid::Uuid;

use crate::postgres::administer;

/// As many as write at the same time.
const CONNECTIONS: usize = 4;
/// Orders of a backlog that share a transaction, as the API's group commit makes them.
const GROUP: i64 = 50;
/// The least time between two notifications, as in the API.
const WAKE_INTERVAL: Duration = Duration::from_millis(5);
/// How long anything may take that is not measured.
const PATIENCE: Duration = Duration::from_mins(2);

/// The events of orders `$1` to `$2` as the API writes them, except that `createdAt` is the time at which the row is inserted, and not
/// the one at which its transaction began.
const INSERT: &str = r#"
    insert into outbox_log (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload, correlation_id)
    select gen_random_uuid(), 'order', n::text, 1, 'order.created',
           jsonb_build_object(
               'orderId', n::text,
               'skuId', n % 1000,
               'quantity', 1 + n % 5,
               'userId', 'user-' || n % 10000,
               'status', 'CREATED',
               'version', 1,
               'correlationId', correlation_id,
               'eventType', 'ORDER_CREATED',
               'createdAt', to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')),
           correlation_id
      from (select n, gen_random_uuid()::text as correlation_id from generate_series($1::bigint, $2) n) orders"#;

/// The numbers of orders, each of which has one event.
pub type Orders = Range<i64>;

/// A migrated database of one party's own.
pub struct Outbox {
    pub database: String,
    pub url: String,
    next: i64,
}

/// A transaction that has an id and has written an event, and stays open.
pub struct Held {
    connection: PgConnection,
    pub order: Orders,
}

impl Outbox {
    pub async fn create(server: &Postgres, database: &str) -> Result<Self> {
        let url = server.url_of(database);
        let options = parse_url(&url.as_str().into()).context("no PostgreSQL URL")?;
        migrate(&options).await?;
        Ok(Self {
            database: database.to_owned(),
            url,
            next: 1,
        })
    }

    pub async fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.url).await?)
    }

    /// Writes events as fast as it can, leaving nothing to be written to the disk later.
    pub async fn fill(&mut self, server: &Postgres, events: i64) -> Result<Orders> {
        let orders = self.take(events);
        let next = Arc::new(AtomicI64::new(orders.start));
        let mut writers = JoinSet::<Result<()>>::new();
        for _ in 0..CONNECTIONS {
            let mut connection = self.connect().await?;
            connection.execute("set synchronous_commit = off").await?;
            let (next, end) = (Arc::clone(&next), orders.end);
            writers.spawn(async move {
                loop {
                    let first = next.fetch_add(GROUP, Ordering::Relaxed);
                    if first >= end {
                        return Ok(());
                    }
                    insert(&mut connection, first..end.min(first + GROUP)).await?;
                }
            });
        }
        joined(writers).await?;
        administer(server, &self.database, &["checkpoint"]).await?;
        Ok(orders)
    }

    /// Writes events one by one, each in a transaction of its own and at its time, whether or not those before it are done. With
    /// `wake` the relay is notified as by the API.
    pub async fn pace(&mut self, rate: u32, duration: Duration, wake: bool) -> Result<Orders> {
        let count = u32::try_from(duration.as_secs())? * rate;
        let orders = self.take(count.into());
        let next = Arc::new(AtomicI64::new(0));
        let written = Arc::new(Notify::new());
        let mut waker = JoinSet::new();
        if wake {
            waker.spawn(notify(self.connect().await?, Arc::clone(&written)));
        }
        let mut writers = JoinSet::<Result<()>>::new();
        let began = Instant::now() + Duration::from_millis(100);
        for _ in 0..CONNECTIONS {
            let mut connection = self.connect().await?;
            // Planned once: what writes is not measured.
            connection
                .execute("set plan_cache_mode = force_generic_plan")
                .await?;
            let (next, written, first) = (Arc::clone(&next), Arc::clone(&written), orders.start);
            writers.spawn(async move {
                loop {
                    let place = u32::try_from(next.fetch_add(1, Ordering::Relaxed))?;
                    if place >= count {
                        return Ok(());
                    }
                    sleep_until(began + Duration::from_secs(place.into()) / rate).await;
                    let order = first + i64::from(place);
                    insert(&mut connection, order..order + 1).await?;
                    written.notify_one();
                }
            });
        }
        joined(writers).await?;
        let late = began.elapsed().saturating_sub(duration);
        ensure!(
            late < duration / 10,
            "{rate} events/s can't be written here: {count} took {} s too long",
            late.as_secs_f64()
        );
        Ok(orders)
    }

    /// Opens a transaction, which writes an event.
    pub async fn hold(&mut self) -> Result<Held> {
        let order = self.take(1);
        let mut connection = self.connect().await?;
        connection.execute("begin").await?;
        insert(&mut connection, order.clone()).await?;
        Ok(Held { connection, order })
    }

    /// The ids of the orders' events.
    pub async fn event_ids(&self, orders: &Orders) -> Result<HashSet<Uuid>> {
        const IDS: &str =
            "select event_id from outbox_log where aggregate_id::bigint >= $1 and aggregate_id::bigint < $2";
        let ids = sqlx::query_scalar(IDS).bind(orders.start).bind(orders.end);
        let ids: Vec<Uuid> = ids.fetch_all(&mut self.connect().await?).await?;
        Ok(ids.into_iter().collect())
    }

    /// Rows of the log that vacuum would have to remove.
    pub async fn dead_rows(&self) -> Result<i64> {
        const DEAD: &str = "
            select coalesce(sum(n_dead_tup), 0)::bigint from pg_stat_all_tables
             where relid in (select inhrelid from pg_inherits where inhparent = 'outbox_log'::regclass)";
        // Sessions report what they have done within a second.
        sleep(Duration::from_millis(1_500)).await;
        Ok(sqlx::query_scalar(DEAD)
            .fetch_one(&mut self.connect().await?)
            .await?)
    }

    /// When `question` began to be answered with true.
    pub async fn moment(&self, what: &str, question: &'static str) -> Result<SystemTime> {
        let mut connection = self.connect().await?;
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = sqlx::query_scalar::<_, bool>(question).fetch_optional(&mut connection);
            if answer.await? == Some(true) {
                return Ok(SystemTime::now());
            }
            ensure!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn take(&mut self, events: i64) -> Orders {
        let first = self.next;
        self.next += events;
        first..self.next
    }
}

impl Held {
    pub async fn commit(mut self) -> Result<()> {
        self.connection.execute("commit").await?;
        Ok(())
    }
}

async fn insert(connection: &mut PgConnection, orders: Orders) -> Result<()> {
    let insert = sqlx::query(INSERT).bind(orders.start).bind(orders.end - 1);
    insert.execute(connection).await.context("writing events")?;
    Ok(())
}

/// After a commit, outside of the transaction, for all of the last few milliseconds together.
async fn notify(mut connection: PgConnection, written: Arc<Notify>) -> Result<()> {
    loop {
        written.notified().await;
        let notify = sqlx::query("select pg_notify($1, '')").bind(WAKE_CHANNEL);
        notify.execute(&mut connection).await?;
        sleep(WAKE_INTERVAL).await;
    }
}

async fn joined(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}
