//! Metrics of searches and of the Redis that caches them.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Where the answer to a search came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// This process.
    Memory,
    Redis,
    Elasticsearch,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
            Self::Elasticsearch => "elasticsearch",
        }
    }
}

/// How a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The cache had the answer.
    Hit,
    /// The cache had it, and has a newer one fetched.
    StaleWhileRevalidate,
    /// The cache had one that is out of date, and Elasticsearch none.
    StaleIfError,
    /// The cache did not have it.
    Miss,
    /// The cache could not be asked.
    Bypass,
    /// There was no answer.
    Failed,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::StaleWhileRevalidate => "stale_while_revalidate",
            Self::StaleIfError => "stale_if_error",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    level: &'static str,
    outcome: &'static str,
}

/// Handles; clones share them.
#[derive(Debug, Clone)]
pub struct SearchMetrics {
    hits: Counter,
    misses: Counter,
    answers: Family<AnswerLabels, Counter>,
    breaker: Gauge,
}

impl SearchMetrics {
    /// Registers all of them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            hits: Counter::default(),
            misses: Counter::default(),
            answers: Family::default(),
            breaker: Gauge::default(),
        };
        // The registry adds `_total` to the names of counters.
        let help = "Searches answered from the cache, in this process or in Redis";
        registry.register("mcl_cache_search_hit", help, metrics.hits.clone());
        let help = "Searches answered from Elasticsearch";
        registry.register("mcl_cache_search_miss", help, metrics.misses.clone());
        let help = "Searches, by where the answer came from and how";
        registry.register("commerce_search_answers", help, metrics.answers.clone());
        let help = "Whether Redis is used: 0 it is, 1 one request tries it, 2 it is left alone";
        registry.register("commerce_redis_breaker_state", help, metrics.breaker.clone());
        metrics
    }

    /// A search has ended.
    pub fn answered(&self, level: Level, outcome: Outcome) {
        match outcome {
            Outcome::Hit | Outcome::StaleWhileRevalidate | Outcome::StaleIfError => {
                self.hits.inc();
            }
            Outcome::Miss | Outcome::Bypass => {
                self.misses.inc();
            }
            Outcome::Failed => {}
        }
        let labels = AnswerLabels {
            level: level.as_str(),
            outcome: outcome.as_str(),
        };
        self.answers.get_or_create(&labels).inc();
    }

    /// The gauge that shows whether Redis is used.
    pub fn breaker(&self) -> Gauge {
        self.breaker.clone()
    }
}
