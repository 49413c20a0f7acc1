//! What the relay tells about itself: metrics, and the JSON of `/status`.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicI64, AtomicU64},
};

use prometheus_client::{
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use serde::Serialize;

/// Metrics and status. Clones share them.
#[derive(Debug, Clone)]
pub struct Report {
    pub metrics: Metrics,
    status: Arc<Mutex<Status>>,
}

#[derive(Debug, Clone)]
pub struct Metrics {
    pub published: Counter,
    pub refused: Counter,
    /// Events published again after they had been parked.
    pub retried: Counter,
    pub windows: Counter,
    pub window_events: Histogram,
    /// From the begin of the event's transaction to Kafka's acknowledgement.
    pub latency: Histogram,
    pub checkpoints: Counter,
    pub terms: Counter,
    active: Gauge,
    backlog_new: Gauge,
    backlog_failed: Gauge,
    oldest: Gauge<f64, AtomicU64>,
    in_flight: Gauge<i64, AtomicI64>,
}

/// Where the relay stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Publishing.
    Active,
    /// Another relay is.
    Standby,
    /// Something that it needs is away.
    Waiting,
}

/// What `/status` answers. Only the active relay knows the numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub state: State,
    /// Why nothing is published until somebody has decided something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked: Option<String>,
    #[serde(flatten)]
    pub backlog: Option<Backlog>,
}

/// What is not published yet.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backlog {
    /// Events not published, parked ones not counted. An estimate: the ids of aborted transactions count.
    pub backlog: u64,
    /// The age of the oldest of them, by PostgreSQL's clock; 0 where there is none.
    pub oldest_unpublished_seconds: f64,
    /// Events that Kafka refused, and those that wait behind one.
    pub parked: u64,
    /// Events handed to Kafka and not acknowledged.
    pub in_flight: usize,
}

impl Report {
    /// Registers all metrics.
    pub fn new(registry: &mut Registry) -> Self {
        Self {
            metrics: Metrics::new(registry),
            status: Arc::new(Mutex::new(Status::of(State::Waiting))),
        }
    }

    #[must_use]
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_state(&self, state: State) {
        self.set(Status::of(state));
    }

    pub fn set_blocked(&self, why: String) {
        self.set(Status {
            blocked: Some(why),
            ..Status::of(State::Waiting)
        });
    }

    pub fn set_backlog(&self, backlog: Backlog) {
        self.set(Status {
            backlog: Some(backlog),
            ..Status::of(State::Active)
        });
    }

    fn set(&self, status: Status) {
        let metrics = &self.metrics;
        metrics.active.set(i64::from(status.state == State::Active));
        let backlog = status.backlog.unwrap_or_default();
        metrics
            .backlog_new
            .set(i64::try_from(backlog.backlog).unwrap_or(i64::MAX));
        metrics
            .backlog_failed
            .set(i64::try_from(backlog.parked).unwrap_or(i64::MAX));
        metrics.oldest.set(backlog.oldest_unpublished_seconds);
        metrics
            .in_flight
            .set(i64::try_from(backlog.in_flight).unwrap_or(i64::MAX));
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

impl Status {
    fn of(state: State) -> Self {
        Self {
            state,
            blocked: None,
            backlog: None,
        }
    }
}

impl Default for Backlog {
    fn default() -> Self {
        Self {
            backlog: 0,
            oldest_unpublished_seconds: 0.0,
            parked: 0,
            in_flight: 0,
        }
    }
}

impl Metrics {
    fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            published: Counter::default(),
            refused: Counter::default(),
            retried: Counter::default(),
            windows: Counter::default(),
            window_events: Histogram::new(exponential_buckets(1.0, 4.0, 10)),
            latency: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            checkpoints: Counter::default(),
            terms: Counter::default(),
            active: Gauge::default(),
            backlog_new: Gauge::default(),
            backlog_failed: Gauge::default(),
            oldest: Gauge::default(),
            in_flight: Gauge::default(),
        };
        let m = metrics.clone();
        registry.register(
            "mcl_kafka_publish_success",
            "Events that Kafka acknowledged",
            m.published,
        );
        registry.register(
            "mcl_kafka_publish_failed",
            "Events that Kafka refused, each attempt counted",
            m.refused,
        );
        registry.register(
            "mcl_outbox_batch_size",
            "Events in a window that was not empty",
            m.window_events,
        );
        registry.register(
            "mcl_outbox_backlog_new",
            "Events not published yet, estimated",
            m.backlog_new,
        );
        registry.register(
            "mcl_outbox_backlog_failed",
            "Parked events, with those behind them",
            m.backlog_failed,
        );
        registry.register(
            "commerce_relay_parked_published",
            "Parked events published after all",
            m.retried,
        );
        registry.register(
            "commerce_relay_windows",
            "Windows read that were not empty",
            m.windows,
        );
        registry.register("commerce_relay_checkpoints", "Checkpoints saved", m.checkpoints);
        registry.register(
            "commerce_relay_terms",
            "Times this relay became the active one",
            m.terms,
        );
        registry.register(
            "commerce_relay_active",
            "1 while this relay holds the lease",
            m.active,
        );
        registry.register(
            "commerce_relay_in_flight",
            "Events handed to Kafka and not acknowledged",
            m.in_flight,
        );
        let (latency, oldest) = (
            "Begin of an event's transaction to Kafka's acknowledgement",
            "Age of the oldest unpublished event",
        );
        registry.register_with_unit(
            "commerce_relay_publish_latency",
            latency,
            Unit::Seconds,
            m.latency,
        );
        registry.register_with_unit(
            "commerce_relay_oldest_unpublished",
            oldest,
            Unit::Seconds,
            m.oldest,
        );
        metrics
    }
}
