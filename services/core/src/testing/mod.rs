//! Real PostgreSQL, Kafka, Elasticsearch and Redis as local processes, for tests and for `make dev`.
//!
//! Each store listens on a free port of 127.0.0.1 and keeps its data in a folder of its own. Both are gone when the
//! value is dropped or when this process ends, by whatever means. A store can be killed, restarted on the same port and
//! data, paused and resumed, which is how tests take one away from under a service: see [`Process`].
//!
//! Most tests need no store of their own: [`shared`] starts each at most once in a test process and gives every caller
//! a database, topics, an index and keys that nobody else uses.
//!
//! The programs are put together by `e2e/cluster/stores`, which is run once per process; `COMMERCE_STORES` names a
//! folder to take instead. [`schemathesis`] is found the same way.

mod certificates;
mod collector;
mod distribution;
mod elasticsearch;
mod fault_proxy;
mod kafka;
mod ports;
mod postgres;
mod process;
mod proxy;
mod redis;
mod secure;
mod shared;

pub use self::{
    certificates::{Authority, Certificate},
    collector::{Collected, Collector},
    distribution::{java_home, schemathesis, stores},
    elasticsearch::Elasticsearch,
    fault_proxy::{FaultProxy, Faults, SeenBulk},
    kafka::Kafka,
    postgres::{Durability, Postgres},
    process::Process,
    proxy::Proxy,
    redis::Redis,
    secure::{Clients, HOST, PASSWORD, Secure, USER},
    shared::{Database, Shared, shared},
};

/// Why a store is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("finding the programs that tests run: {0}")]
    Distribution(String),
    #[error("{action} of {store}: {source}")]
    Process {
        store: &'static str,
        action: &'static str,
        source: std::io::Error,
    },
    #[error("{store} ended while it started; the end of its log:\n{log}")]
    Ended { store: &'static str, log: String },
    #[error("{store} was started but did not answer for {seconds} s: {problem}; the end of its log:\n{log}")]
    Silent {
        store: &'static str,
        seconds: u64,
        problem: String,
        log: String,
    },
    #[error("preparing a database for tests: {0}")]
    Database(#[from] sqlx::Error),
    #[error("migrating a database for tests: {0}")]
    Migrate(#[from] crate::postgres::MigrateError),
    #[error("making a certificate for tests: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("the address of a store for tests: {0}")]
    Address(String),
}
