//! Tests of the operator that need neither a cluster nor stores.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod around;
mod build;
mod cel;
mod cluster;
mod conflict;
mod controller;
mod crash;
mod deletion;
mod drift;
mod faults;
mod fixtures;
mod flow;
mod lag;
mod leader;
mod log_level;
mod marks;
mod monitoring;
mod operators;
mod plan;
mod reconcile;
mod reindex;
mod remote;
mod rollout;
mod schema;
mod secrecy;
mod services;
mod status;
mod stores;
mod validate;
mod world;
