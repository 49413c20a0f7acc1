//! The indexer: order events from Kafka become documents in Elasticsearch.
//!
//! ```text
//! fetch, decode ─▶ batch ─▶ bulks, several at once ─▶ refresh ─▶ invalidate caches ─▶ commit offsets
//! (pipeline, group)         (writer, bulk)            (refresh)  (invalidation)       (offsets)
//!                                │
//!                                ▼ what can never be indexed
//!                           dead-letter topics
//! ```
//!
//! What always holds:
//! - An offset is committed only when everything before it in its partition is in the index or in the dead-letter
//!   topic. A crash repeats work, and repeating is harmless: documents carry the order's version, and Elasticsearch
//!   keeps the highest.
//! - Nothing is given up for lack of a store: the indexer waits, with bounded memory, for as long as it takes.
//! - One bad event holds up no other.
//!
//! Beside it, for people on call: `reconcile` compares the index with PostgreSQL and fills another one, `dlq` shows dead
//! letters and publishes them again.

mod backoff;
mod batch;
mod bulk;
pub mod cli;
mod config;
mod dead_letters;
mod delivery;
mod dlq;
mod document;
mod freshness;
mod group;
mod invalidation;
mod json;
mod lag;
mod metrics;
mod offsets;
mod pipeline;
mod problem;
mod reconcile;
mod refresh;
mod server;
mod sizing;
mod startup;
mod target;
mod writer;

pub use self::{
    config::{BulkLimits, Config},
    server::{Error, Indexer},
};

/// Registers every metric of the indexer, each with a value, for tests of those who ask for metrics by their names.
#[doc(hidden)]
pub use self::metrics::examples as example_metrics;
