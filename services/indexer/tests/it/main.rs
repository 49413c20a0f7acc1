//! The indexer against real Kafka, Elasticsearch and Redis.

mod chaos;
mod crashes;
mod dlq;
mod documents;
mod events;
mod faults;
mod freshness;
mod outages;
mod poison;
mod rebalances;
mod rebuild;
mod running;
mod shop;
mod traces;
mod traffic;
mod verify;
mod world;
