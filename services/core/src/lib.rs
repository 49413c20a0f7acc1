//! What the services share: events, store clients, configuration, telemetry and migrations.
//!
//! No service reaches into another; whatever two of them must agree on stands here, once.

pub mod admin;
pub mod config;
pub mod drift;
pub mod elasticsearch;
pub mod event;
pub mod exit;
pub mod index;
pub mod kafka;
pub mod order;
pub mod owner;
pub mod postgres;
pub mod print;
pub mod redis;
pub mod search_cache;
pub mod shutdown;
pub mod telemetry;
mod time;
pub mod tls;
pub mod topics;
pub mod trace;

#[cfg(feature = "testing")]
pub mod testing;
