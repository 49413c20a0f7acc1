//! What the relay tells about itself: metrics, and the JSON of `/status`.

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64};

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
    retained: Arc<Mutex<Retained>>,
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
    backlog_sent: Gauge,
    backlog_failed: Gauge,
    discarded: Gauge,
    default_partition_rows: Gauge,
    oldest: Gauge<f64, AtomicU64>,
    in_flight: Gauge,
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

/// What is not published yet, and what of the rest is still there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
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
    /// Published events that retention has not dropped yet. An estimate: the ids of aborted transactions count.
    pub sent: u64,
    /// Discarded events that retention has not dropped yet.
    pub discarded: u64,
    /// Events in the default partition, because their day has none of its own. Counted up to 10,000.
    pub default_partition_rows: u64,
}

/// What the outbox holds, as it was seen last, some seconds ago.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retained {
    /// The first event, in the order of transactions.
    pub first_id: Option<i64>,
    pub discarded: u64,
    pub default_partition_rows: u64,
}

impl Retained {
    /// How many of the ids from the first to `last_id` are published, where `unsent` are not.
    #[must_use]
    pub fn sent(&self, last_id: i64, unsent: u64) -> u64 {
        let ids = self.first_id.map_or(0, |first| last_id - first + 1);
        u64::try_from(ids)
            .unwrap_or_default()
            .saturating_sub(unsent + self.discarded)
    }
}

impl Report {
    /// Registers all metrics.
    pub fn new(registry: &mut Registry) -> Self {
        Self {
            metrics: Metrics::new(registry),
            status: Arc::new(Mutex::new(Status::of(State::Waiting))),
            retained: Arc::default(),
        }
    }

    #[must_use]
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_state(&self, state: State) {
        self.set(Status::of(state));
    }

    #[must_use]
    pub fn retained(&self) -> Retained {
        *self.retained.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_retained(&self, retained: Retained) {
        *self.retained.lock().unwrap_or_else(PoisonError::into_inner) = retained;
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
        for (gauge, count) in [
            (&metrics.backlog_new, backlog.backlog),
            (&metrics.backlog_sent, backlog.sent),
            (&metrics.backlog_failed, backlog.parked),
            (&metrics.discarded, backlog.discarded),
            (&metrics.default_partition_rows, backlog.default_partition_rows),
        ] {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
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
            backlog_sent: Gauge::default(),
            backlog_failed: Gauge::default(),
            discarded: Gauge::default(),
            default_partition_rows: Gauge::default(),
            oldest: Gauge::default(),
            in_flight: Gauge::default(),
        };
        metrics.clone().register(registry);
        metrics
    }

    fn register(self, registry: &mut Registry) {
        for (name, help, counter) in [
            (
                "mcl_kafka_publish_success",
                "Events that Kafka acknowledged",
                self.published,
            ),
            (
                "mcl_kafka_publish_failed",
                "Events that Kafka refused, each attempt counted",
                self.refused,
            ),
            (
                "commerce_relay_parked_published",
                "Parked events published after all",
                self.retried,
            ),
            (
                "commerce_relay_windows",
                "Windows read that were not empty",
                self.windows,
            ),
            (
                "commerce_relay_checkpoints",
                "Checkpoints saved",
                self.checkpoints,
            ),
            (
                "commerce_relay_terms",
                "Times this relay became the active one",
                self.terms,
            ),
        ] {
            registry.register(name, help, counter);
        }
        for (name, help, gauge) in [
            (
                "mcl_outbox_backlog_new",
                "Events not published yet, estimated",
                self.backlog_new,
            ),
            (
                "mcl_outbox_backlog_sent",
                "Published events that the outbox still has, estimated",
                self.backlog_sent,
            ),
            (
                "mcl_outbox_backlog_failed",
                "Parked events, with those behind them",
                self.backlog_failed,
            ),
            (
                "commerce_relay_discarded",
                "Discarded events that the outbox still has",
                self.discarded,
            ),
            (
                "commerce_relay_default_partition_rows",
                "Events whose day has no partition, counted up to 10,000",
                self.default_partition_rows,
            ),
            (
                "commerce_relay_active",
                "1 while this relay holds the lease",
                self.active,
            ),
            (
                "commerce_relay_in_flight",
                "Events handed to Kafka and not acknowledged",
                self.in_flight,
            ),
        ] {
            registry.register(name, help, gauge);
        }
        registry.register(
            "mcl_outbox_batch_size",
            "Events in a window that was not empty",
            self.window_events,
        );
        let (latency, oldest) = (
            "Begin of an event's transaction to Kafka's acknowledgement",
            "Age of the oldest unpublished event",
        );
        registry.register_with_unit(
            "commerce_relay_publish_latency",
            latency,
            Unit::Seconds,
            self.latency,
        );
        registry.register_with_unit(
            "commerce_relay_oldest_unpublished",
            oldest,
            Unit::Seconds,
            self.oldest,
        );
    }
}
