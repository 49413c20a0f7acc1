//! The API in process, against real stores.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test that can't go on is to fail"
)]

mod auth;
mod cancel;
mod docs;
mod fuzz;
mod group_commit;
mod jwks;
mod ledger;
mod limits;
mod migrate;
mod model;
mod orders;
mod products;
mod protocol;
mod proxy;
mod race;
mod replicas;
mod search;
mod search_cache;
mod support;
mod timeline;
mod tokens;
mod traces;
mod trouble;
mod validation;
