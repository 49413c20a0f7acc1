//! The API's metrics. No label holds anything a caller chose.

mod search;

use std::{
    hash::{Hash, Hasher},
    time::Duration,
};

use axum::extract::MatchedPath;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

pub use self::search::{Level, Outcome, SearchMetrics};

/// From 1 ms to 10 s.
const LATENCY_BUCKETS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Handles to the metrics; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    attempts: Counter,
    successes: Counter,
    recoveries: Counter,
    failures: Counter,
    latency: Family<RequestLabels, Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: Route,
    status: u16,
}

/// A route's pattern. Shared with the router, so that counting a request copies no text.
#[derive(Debug, Clone)]
pub struct Route(Option<MatchedPath>);

impl Route {
    /// The route that a request took, if it took one.
    pub fn new(path: Option<MatchedPath>) -> Self {
        Self(path)
    }

    /// The pattern, such as `/orders/{id}`.
    pub fn as_str(&self) -> &str {
        self.0.as_ref().map_or("unmatched", MatchedPath::as_str)
    }
}

impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Route {}

impl Hash for Route {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl EncodeLabelValue for Route {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        self.as_str().encode(encoder)
    }
}

/// How an attempt to place an order ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderResult {
    /// A new order.
    Success,
    /// A replay of an order that was there.
    Recovered,
    /// Refused or failed.
    Failed,
}

impl Metrics {
    /// Registers all of them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            attempts: Counter::default(),
            successes: Counter::default(),
            recoveries: Counter::default(),
            failures: Counter::default(),
            latency: Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS)),
        };
        // The registry adds `_total` to the names of counters. Attempts are successes, recoveries and failures together.
        let counters = [
            (
                "mcl_orders_create_attempt",
                "Requests to place an order",
                &metrics.attempts,
            ),
            ("mcl_orders_create_success", "Orders placed", &metrics.successes),
            (
                "mcl_orders_create_recovered",
                "Requests answered with the order their key led to",
                &metrics.recoveries,
            ),
            (
                "mcl_orders_create_failed",
                "Requests to place an order that were refused or failed",
                &metrics.failures,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let help = "Time from a request's arrival to the head of its answer";
        registry.register_with_unit(
            "http_request_duration",
            help,
            Unit::Seconds,
            metrics.latency.clone(),
        );
        metrics
    }

    /// Somebody wants to place an order.
    pub fn order_attempted(&self) {
        self.attempts.inc();
    }

    /// That is what came of it.
    pub fn order_ended(&self, result: OrderResult) {
        match result {
            OrderResult::Success => self.successes.inc(),
            OrderResult::Recovered => self.recoveries.inc(),
            OrderResult::Failed => self.failures.inc(),
        };
    }

    /// A request was answered.
    pub fn answered(&self, method: &'static str, route: Route, status: u16, latency: Duration) {
        let labels = RequestLabels {
            method,
            route,
            status,
        };
        self.latency.get_or_create(&labels).observe(latency.as_secs_f64());
    }
}

/// Registers every metric of the API, each with a value.
pub fn examples(registry: &mut Registry) {
    Metrics::new(registry).answered("GET", Route::new(None), 200, Duration::ZERO);
    IntakeMetrics::new(registry);
    SearchMetrics::new(registry).answered(Level::Memory, Outcome::Hit);
}

/// What group commit does. Handles; clones share them.
#[derive(Debug, Clone)]
pub struct IntakeMetrics {
    queued: Gauge,
    refused: Counter,
    orders: Histogram,
    wait: Histogram,
    commit: Histogram,
}

impl IntakeMetrics {
    /// Registers all of them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            queued: Gauge::default(),
            refused: Counter::default(),
            orders: Histogram::new(exponential_buckets(1.0, 2.0, 14)),
            wait: Histogram::new(LATENCY_BUCKETS),
            commit: Histogram::new(LATENCY_BUCKETS),
        };
        let help = "Orders that wait for a transaction";
        registry.register(
            "commerce_group_commit_queued_orders",
            help,
            metrics.queued.clone(),
        );
        let help = "Orders refused because too many were waiting";
        registry.register(
            "commerce_group_commit_refused_orders",
            help,
            metrics.refused.clone(),
        );
        let help = "Orders that shared a transaction";
        registry.register("commerce_group_commit_orders", help, metrics.orders.clone());
        let help = "Time from an order's arrival to the beginning of its transaction";
        registry.register_with_unit(
            "commerce_group_commit_wait",
            help,
            Unit::Seconds,
            metrics.wait.clone(),
        );
        let help = "Time from the beginning of a transaction to its commit";
        registry.register_with_unit(
            "commerce_group_commit_duration",
            help,
            Unit::Seconds,
            metrics.commit.clone(),
        );
        metrics
    }

    /// An order waits for a transaction.
    pub fn queued(&self) {
        self.queued.inc();
    }

    /// So many orders wait no longer.
    pub fn taken(&self, orders: usize) {
        self.queued.dec_by(i64::try_from(orders).unwrap_or(i64::MAX));
    }

    /// An order found the queue full.
    pub fn refused(&self) {
        self.refused.inc();
    }

    /// An order's turn has come.
    pub fn waited(&self, wait: Duration) {
        self.wait.observe(wait.as_secs_f64());
    }

    /// A transaction has ended.
    #[allow(clippy::cast_precision_loss, reason = "batches are small")]
    pub fn settled(&self, orders: usize, duration: Duration) {
        self.orders.observe(orders as f64);
        self.commit.observe(duration.as_secs_f64());
    }
}
