//! The order API: takes orders, tells about them, searches them and shows the catalogue.
//!
//! A request's way: `connections` → `http::router` → `http::middleware` (correlation id, metrics, time limit) →
//! `http::admit` (who calls, how often) → one file for each action under `http` → `orders`, `search` or `catalogue`, which know nothing of HTTP → the stores. Errors are [`problem::Problem`]s.

pub mod access;
pub mod cli;
pub mod config;
pub mod openapi;
pub mod orders;
pub mod seed;
pub mod server;

mod breaker;
mod cache;
mod catalogue;
mod connections;
mod http;
mod metrics;
mod monitor;
mod page;
mod problem;
mod search;
mod state;
mod version;
mod wake;

pub use self::{config::Config, server::Server};

/// Registers every metric of the API, each with a value, for tests of those who ask for metrics by their names.
#[doc(hidden)]
pub use self::metrics::examples as example_metrics;
