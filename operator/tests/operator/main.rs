//! Tests of the operator that need neither a cluster nor stores.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod build;
mod cel;
mod cluster;
mod controller;
mod crash;
mod faults;
mod fixtures;
mod leader;
mod plan;
mod reconcile;
mod remote;
mod schema;
mod status;
mod stores;
mod validate;
