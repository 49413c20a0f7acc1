//! The indexer's metrics. Every name stands here, once.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::{
    freshness::{RecentFreshness, Summary},
    offsets::Partition,
};

/// In seconds; fine where the objective is, and up to where an outage takes it.
const FRESHNESS_BUCKETS: [f64; 20] = [
    0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.5, 0.75, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0,
    300.0, 3600.0,
];

/// Clones share the metrics.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    events: Family<Outcome, Counter>,
    retries: Counter,
    bulk_documents: Histogram,
    bulk_duration: Histogram,
    refresh_duration: Histogram,
    freshness: Histogram,
    recent: Arc<Mutex<RecentFreshness>>,
    lag: Family<PartitionLabels, Gauge>,
    invalidation_failures: Counter,
}

type Outcome = [(&'static str, &'static str); 1];

const INDEXED: Outcome = [("outcome", "indexed")];
const CONFLICT: Outcome = [("outcome", "conflict")];
const DEAD_LETTERED: Outcome = [("outcome", "dead_lettered")];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartitionLabels {
    topic: String,
    partition: i32,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            events: Family::default(),
            retries: Counter::default(),
            bulk_documents: Histogram::new(exponential_buckets(1.0, 2.0, 15)),
            bulk_duration: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            refresh_duration: Histogram::new(exponential_buckets(0.001, 2.0, 13)),
            freshness: Histogram::new(FRESHNESS_BUCKETS),
            recent: Arc::default(),
            lag: Family::default(),
            invalidation_failures: Counter::default(),
        };
        for outcome in [INDEXED, CONFLICT, DEAD_LETTERED] {
            let _ = metrics.events.get_or_create(&outcome);
        }
        let help = "Events that are done with: indexed; conflict: the index had this version or a newer one; dead_lettered";
        registry.register("commerce_indexer_events", help, metrics.events.clone());
        let help =
            "Documents that have to be sent again because Elasticsearch was away, overloaded or not writable";
        registry.register("commerce_indexer_retries", help, metrics.retries.clone());
        registry.register(
            "commerce_indexer_bulk_documents",
            "Documents in a bulk request",
            metrics.bulk_documents.clone(),
        );
        let mut seconds = |name, help, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        seconds(
            "commerce_indexer_bulk_duration",
            "Time until a bulk request was answered",
            &metrics.bulk_duration,
        );
        seconds(
            "commerce_indexer_refresh_duration",
            "Time that a refresh of the index took",
            &metrics.refresh_duration,
        );
        seconds(
            "commerce_order_freshness",
            "From an order's creation until searches find it",
            &metrics.freshness,
        );
        let help = "Events in the partition that are not committed; reported by the indexer that has it";
        registry.register("commerce_indexer_consumer_lag", help, metrics.lag.clone());
        let help = "Attempts to invalidate cached answers that failed; they are repeated";
        registry.register(
            "commerce_indexer_cache_invalidation_failures",
            help,
            metrics.invalidation_failures.clone(),
        );
        metrics
    }

    pub(crate) fn indexed(&self, indexed: u64, conflicts: u64) {
        self.events.get_or_create(&INDEXED).inc_by(indexed);
        self.events.get_or_create(&CONFLICT).inc_by(conflicts);
    }

    pub(crate) fn dead_lettered(&self, events: usize) {
        self.events.get_or_create(&DEAD_LETTERED).inc_by(count(events));
    }

    pub(crate) fn retried(&self, documents: usize) {
        self.retries.inc_by(count(documents));
    }

    pub(crate) fn bulk_answered(&self, documents: usize, duration: Duration) {
        self.bulk_documents
            .observe(f64::from(u32::try_from(documents).unwrap_or(u32::MAX)));
        self.bulk_duration.observe(duration.as_secs_f64());
    }

    pub(crate) fn refreshed(&self, duration: Duration) {
        self.refresh_duration.observe(duration.as_secs_f64());
    }

    /// These orders, `age` old each, have become searchable.
    pub(crate) fn searchable(&self, ages: impl Iterator<Item = Duration>) {
        let ages = ages.inspect(|age| self.freshness.observe(age.as_secs_f64()));
        self.recent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .record(ages);
    }

    /// What became searchable in the last minutes.
    pub(crate) fn freshness(&self) -> Summary {
        self.recent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .summary()
    }

    pub(crate) fn invalidation_failed(&self) {
        self.invalidation_failures.inc();
    }

    pub(crate) fn set_lag(&self, partition: &Partition, lag: i64) {
        self.lag.get_or_create(&labels(partition)).set(lag);
    }

    /// The partition is somebody else's now.
    pub(crate) fn forget_lag(&self, partition: &Partition) {
        self.lag.remove(&labels(partition));
    }
}

/// Registers every metric of the indexer, each with a value.
pub fn examples(registry: &mut Registry) {
    Metrics::register(registry).set_lag(&Partition::new("order.created", 0), 0);
}

fn labels(partition: &Partition) -> PartitionLabels {
    PartitionLabels {
        topic: partition.topic.clone(),
        partition: partition.number,
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
