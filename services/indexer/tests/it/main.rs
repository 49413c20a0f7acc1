//! The indexer against real Kafka, Elasticsearch and Redis.

mod crashes;
mod documents;
mod events;
mod freshness;
mod outages;
mod poison;
mod rebalances;
mod running;
mod throughput;
mod traces;
mod world;
