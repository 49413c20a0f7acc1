//! The relay: publishes the transactional outbox to Kafka, at least once and in order per aggregate.
//!
//! It works in windows between two PostgreSQL snapshots ([`outbox`]), sends one event of an aggregate at a time
//! ([`lanes`]), and moves its checkpoint only over what Kafka has acknowledged ([`tracker`]). One relay is active, by a
//! lease with a fencing token ([`lease`]); any number of others stand by. [`pump`] is what the active one does, and
//! [`relay`] what surrounds it: it starts again whenever PostgreSQL or Kafka fails. What Kafka refuses is parked
//! ([`parked`]); the outbox's daily partitions come and go by [`partitions`]. Nothing is published before [`history`] has
//! found that the database is the one that was published from.

mod config;
mod error;
pub mod history;
pub mod invariants;
mod lanes;
mod lease;
#[cfg(test)]
mod model;
mod outbox;
pub mod parked;
pub mod partitions;
mod publish;
mod pump;
mod relay;
mod report;
mod tracker;
mod wake;

pub use crate::{
    config::Config,
    error::Error,
    lanes::lane,
    outbox::Limits,
    publish::settings as producer_settings,
    relay::Relay,
    report::{Backlog, State, Status},
    tracker::{Checkpoint, Snapshot},
};

/// Registers every metric of the relay, each with a value, for tests of those who ask for metrics by their names.
#[doc(hidden)]
pub fn example_metrics(registry: &mut prometheus_client::registry::Registry) {
    report::Report::new(registry);
}
