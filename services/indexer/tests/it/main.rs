//! The indexer against real Kafka, Elasticsearch and Redis.

mod crashes;
mod dlq;
mod documents;
mod events;
mod freshness;
mod outages;
mod poison;
mod rebalances;
mod rebuild;
mod running;
mod shop;
mod traces;
mod verify;
mod world;
