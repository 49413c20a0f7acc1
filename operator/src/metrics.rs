//! What the operator counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Why a pass failed.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Reason {
    pub reason: &'static str,
}

/// What the operator counts. Clones share the counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub reconciles: Counter,
    pub errors: Family<Reason, Counter>,
    pub seconds: Histogram,
    pub leader: Gauge,
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
        metrics
    }
}
