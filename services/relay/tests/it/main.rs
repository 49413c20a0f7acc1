//! The relay against real PostgreSQL and Kafka.

mod failover;
mod history;
mod outage;
mod parked;
mod partitions;
mod random;
mod status;
mod support;
mod throughput;
mod traces;
mod windows;
