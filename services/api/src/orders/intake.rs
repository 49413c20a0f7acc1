//! Group commit: orders that come at the same time share a transaction.
//!
//! Requests put their orders into a bounded queue. A few committers, each with a connection of its own, take whatever
//! is waiting and place it with [`place`]. Nobody waits for a batch to fill: an order that comes alone is placed alone,
//! and while one transaction is under way, the next batch gathers by itself. The more there is to do, the larger the
//! batches, and the cheaper each order.
//!
//! An answer is given after its commit. A full queue refuses at once: whoever waited longer would only be refused later.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use commerce_core::postgres;
use sqlx::{Connection as _, Executor as _, PgConnection, error::DatabaseError, postgres::PgConnectOptions};
use tokio::{
    sync::{
        Mutex,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    NewOrder, Outcome,
    place::{PLAN_BY_INDEX, place},
};
use crate::{config::GroupCommit, metrics::IntakeMetrics, wake::Wake};

/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a batch may take; less than a request may. Only a lock that somebody else holds makes it that long.
const PLACE_TIMEOUT: Duration = Duration::from_secs(8);
/// A connection that was used less long ago is taken to be alive.
const TRUSTED: Duration = Duration::from_secs(1);
/// How often a batch is begun anew when PostgreSQL asks for it (a deadlock with somebody else's statements).
const ATTEMPTS: usize = 3;
/// A transaction that was to be begun anew: serialization failure, deadlock.
const BEGIN_ANEW: [&str; 2] = ["40001", "40P01"];

/// Takes new orders and answers each with its outcome, once that is durable.
#[derive(Debug)]
pub struct Intake {
    queue: mpsc::Sender<Waiting>,
    metrics: IntakeMetrics,
}

/// Why an order got no outcome. What PostgreSQL said was logged once for the whole batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The queue is full; nothing was placed.
    Busy,
    /// PostgreSQL is away. If it went away during the commit, the order may be placed: to find out, submit it again with
    /// the same key.
    Away,
    /// PostgreSQL refused what we asked for.
    Failed,
}

/// An order in the queue.
#[derive(Debug)]
struct Waiting {
    order: NewOrder,
    answer: oneshot::Sender<Result<Outcome, Refusal>>,
    since: Instant,
}

/// What [`Intake::new`] gives beside the intake: the work behind it.
#[derive(Debug)]
pub struct Committers(Vec<Committer>);

#[derive(Debug)]
struct Committer {
    /// All committers take from the same queue, one at a time.
    queue: Arc<Mutex<mpsc::Receiver<Waiting>>>,
    options: PgConnectOptions,
    connection: Option<PgConnection>,
    /// When the connection was last used.
    used: Instant,
    /// The log has said that PostgreSQL is away.
    away: bool,
    max_orders: usize,
    wake: Wake,
    metrics: IntakeMetrics,
}

impl Intake {
    /// Orders go to the database of `options`; the relay is told of them through `wake`. Nothing happens before the
    /// committers run.
    #[must_use]
    pub fn new(
        options: &PgConnectOptions,
        limits: GroupCommit,
        wake: &Wake,
        metrics: IntakeMetrics,
    ) -> (Self, Committers) {
        let (queue, receiver) = mpsc::channel(limits.queue);
        let receiver = Arc::new(Mutex::new(receiver));
        let committer = |_| Committer {
            queue: receiver.clone(),
            options: options.clone(),
            connection: None,
            used: Instant::now(),
            away: false,
            max_orders: limits.max_orders,
            wake: wake.clone(),
            metrics: metrics.clone(),
        };
        let committers = Committers((0..limits.connections).map(committer).collect());
        (Self { queue, metrics }, committers)
    }

    /// Places one order.
    pub async fn submit(&self, order: NewOrder) -> Result<Outcome, Refusal> {
        let (answer, outcome) = oneshot::channel();
        let waiting = Waiting {
            order,
            answer,
            since: Instant::now(),
        };
        self.metrics.queued();
        if let Err(error) = self.queue.try_send(waiting) {
            self.metrics.taken(1);
            return match error {
                TrySendError::Full(_) => {
                    self.metrics.refused();
                    Err(Refusal::Busy)
                }
                TrySendError::Closed(_) => Err(Refusal::Away),
            };
        }
        // The committer drops the sender only when it is stopped itself.
        outcome.await.unwrap_or(Err(Refusal::Away))
    }
}

impl Committers {
    /// Works until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let work: JoinSet<()> = self.0.into_iter().map(Committer::run).collect();
        stop.run_until_cancelled(work.join_all()).await;
    }
}

impl Committer {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(self.max_orders);
        loop {
            {
                let mut queue = self.queue.lock().await;
                if queue.recv_many(&mut batch, self.max_orders).await == 0 {
                    return;
                }
            }
            self.metrics.taken(batch.len());
            // Whoever has hung up meanwhile wants no order any more.
            batch.retain(|waiting| !waiting.answer.is_closed());
            if !batch.is_empty() {
                self.settle(&mut batch).await;
            }
        }
    }

    /// Places a batch and answers everybody in it.
    async fn settle(&mut self, batch: &mut Vec<Waiting>) {
        let started = Instant::now();
        let (orders, answers): (Vec<_>, Vec<_>) = batch
            .drain(..)
            .map(|waiting| {
                self.metrics.waited(started - waiting.since);
                (waiting.order, waiting.answer)
            })
            .unzip();
        let outcomes = self.place(&orders).await;
        self.metrics.settled(orders.len(), started.elapsed());
        if outcomes
            .iter()
            .any(|outcome| matches!(outcome, Ok(Outcome::Placed(_))))
        {
            self.wake.outbox_changed();
        }
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            // Whoever has hung up can ask again with the same key.
            let _ = answer.send(outcome);
        }
    }

    async fn place(&mut self, orders: &[NewOrder]) -> Vec<Result<Outcome, Refusal>> {
        match self.try_place(orders).await {
            Ok(outcomes) => {
                self.away = false;
                outcomes.into_iter().map(Ok).collect()
            }
            Err(error) if postgres::is_away(&error) => {
                if !self.away {
                    tracing::warn!(%error, orders = orders.len(), "PostgreSQL is away; orders are refused");
                }
                self.away = true;
                vec![Err(Refusal::Away); orders.len()]
            }
            // One of them is to blame. Alone, each meets its own fate.
            Err(_) if orders.len() > 1 => {
                let mut outcomes = Vec::with_capacity(orders.len());
                for order in orders.chunks(1) {
                    outcomes.extend(Box::pin(self.place(order)).await);
                }
                outcomes
            }
            Err(error) => {
                tracing::error!(%error, correlationId = orders[0].correlation_id, "placing an order failed");
                vec![Err(Refusal::Failed)]
            }
        }
    }

    async fn try_place(&mut self, orders: &[NewOrder]) -> Result<Vec<Outcome>, sqlx::Error> {
        let mut attempt = 1;
        loop {
            let mut connection = self.connect().await?;
            let result = timeout(PLACE_TIMEOUT, place(&mut connection, orders)).await;
            let error = match result.map_err(|_| took_too_long(PLACE_TIMEOUT))? {
                Ok(outcomes) => {
                    self.keep(connection);
                    return Ok(outcomes);
                }
                Err(error) => error,
            };
            // The ping also ends what `place` has left open.
            if connection.ping().await.is_ok() {
                self.keep(connection);
            }
            let code = error.as_database_error().and_then(DatabaseError::code);
            let anew = code.is_some_and(|code| BEGIN_ANEW.contains(&code.as_ref()));
            if !anew || attempt == ATTEMPTS {
                return Err(error);
            }
            attempt += 1;
        }
    }

    /// The connection, made anew where it is gone.
    async fn connect(&mut self) -> Result<PgConnection, sqlx::Error> {
        let work = async {
            if let Some(mut connection) = self.connection.take()
                && (self.used.elapsed() < TRUSTED || connection.ping().await.is_ok())
            {
                return Ok(connection);
            }
            let mut connection = PgConnection::connect_with(&self.options).await?;
            connection.execute(PLAN_BY_INDEX).await?;
            Ok(connection)
        };
        timeout(CONNECT_TIMEOUT, work)
            .await
            .unwrap_or_else(|_| Err(took_too_long(CONNECT_TIMEOUT)))
    }

    fn keep(&mut self, connection: PgConnection) {
        self.connection = Some(connection);
        self.used = Instant::now();
    }
}

fn took_too_long(limit: Duration) -> sqlx::Error {
    let message = format!("no answer within {} s", limit.as_secs());
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, message))
}
