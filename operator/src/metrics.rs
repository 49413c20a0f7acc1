//! What the operator counts.

mod requests;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

pub use self::requests::{CountRequests, Request};

/// Why a pass failed.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Reason {
    pub reason: &'static str,
}

/// The status of a condition, as a label.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Ready {
    pub ready: &'static str,
}

/// What the operator counts. Clones share the counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub reconciles: Counter,
    pub errors: Family<Reason, Counter>,
    pub seconds: Histogram,
    pub leader: Gauge,
    pub in_flight: Gauge,
    pub in_backoff: Gauge,
    pub pipelines: Family<Ready, Gauge>,
    pub requests: Family<Request, Counter>,
}

impl Metrics {
    /// Registers the metrics.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let seconds = Histogram::new([0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]);
        let metrics = Self {
            reconciles: Counter::default(),
            errors: Family::default(),
            seconds,
            leader: Gauge::default(),
            in_flight: Gauge::default(),
            in_backoff: Gauge::default(),
            pipelines: Family::default(),
            requests: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix("commerce_operator");
        registry.register("reconciles", "Passes over a pipeline", metrics.reconciles.clone());
        registry.register(
            "reconcile_errors",
            "Passes that failed, by reason",
            metrics.errors.clone(),
        );
        registry.register("reconcile_seconds", "Duration of a pass", metrics.seconds.clone());
        registry.register(
            "leader",
            "1 where this replica is the one that works",
            metrics.leader.clone(),
        );
        registry.register("in_flight", "Passes under way", metrics.in_flight.clone());
        registry.register(
            "in_backoff",
            "Pipelines whose last pass failed, and that wait to be tried again",
            metrics.in_backoff.clone(),
        );
        registry.register(
            "pipelines",
            "Pipelines that this replica has looked at, by their condition Ready",
            metrics.pipelines.clone(),
        );
        registry.register(
            "api_requests",
            "Requests to the Kubernetes API, by verb, resource and answer",
            metrics.requests.clone(),
        );
        metrics
    }

    /// How many pipelines there are of each readiness.
    pub fn pipelines_are(&self, counts: [(&'static str, usize); 3]) {
        for (ready, count) in counts {
            let gauge = self.pipelines.get_or_create(&Ready { ready });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
