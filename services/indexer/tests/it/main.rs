//! The indexer against real Kafka, Elasticsearch and Redis.

mod crashes;
mod documents;
mod freshness;
mod outages;
mod poison;
mod rebalances;
mod world;
