//! Measures parts of a pipeline against what they could be compared with: one run, one machine, the same stores.
//!
//! Each bench prints a table and puts it into docs/benchmarks.md, between the lines that name the bench.

mod api;
mod bare;
mod cpu;
mod indexer;
mod operator;
mod pgbench;
mod postgres;
mod program;
mod relay;
mod report;
mod repository;
mod wrk;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, bail};
use clap::Parser;
use commerce_core::shutdown;

/// How to measure.
#[derive(Debug, Parser)]
#[command(name = "bench")]
enum Bench {
    /// Order intake against pgbench, and cached searches against a bare route.
    Api {
        /// How long each measurement takes.
        #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
        duration: Duration,
        /// Only these measurements, by a part of their names; nothing is written to docs/benchmarks.md then.
        #[arg(long)]
        only: Option<String>,
    },
    /// The relay against Debezium's outbox event router and a bare producer.
    Relay {
        /// How many events wait in a backlog.
        #[arg(long, default_value_t = 500_000)]
        events: u32,
        /// How long events are written at each pace.
        #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
        duration: Duration,
        /// Only these measurements, by a part of their names; nothing is written to docs/benchmarks.md then.
        #[arg(long)]
        only: Option<String>,
    },
    /// The indexer against a bare loader and Flink SQL, and how fresh the whole pipeline's search is.
    Indexer {
        /// How many events wait.
        #[arg(long, default_value_t = 500_000)]
        events: u32,
        /// Only the measurement whose name has this in it; nothing is written to docs/benchmarks.md then.
        #[arg(long)]
        only: Option<String>,
    },
    /// The operator with hundreds of pipelines, on a Kubernetes API server without nodes.
    Operator {
        /// How many pipelines. With another number nothing is written to docs/benchmarks.md.
        #[arg(long, default_value_t = operator::PIPELINES)]
        pipelines: u32,
        /// How long it is watched at rest.
        #[arg(long, default_value = "2m", value_parser = humantime::parse_duration)]
        rest: Duration,
    },
    /// The bare route that searches are compared with; run by `api`.
    #[command(hide = true)]
    Bare { address: SocketAddr },
    /// The bare producer that the relay is compared with; run by `relay`.
    #[command(hide = true)]
    Produce,
}

#[tokio::main]
async fn main() -> Result<()> {
    let bench = Bench::parse();
    let stop = shutdown::on_signal()?;
    // What it has started ends when it is dropped.
    tokio::select! {
        ended = bench.run() => ended,
        () = stop.cancelled() => bail!("stopped by a signal"),
    }
}

impl Bench {
    async fn run(self) -> Result<()> {
        match self {
            Self::Api { duration, only } => api::run(duration, only.as_deref()).await,
            Self::Relay {
                events,
                duration,
                only,
            } => {
                let options = relay::Options {
                    events,
                    duration,
                    only,
                };
                relay::run(options).await
            }
            Self::Indexer { events, only } => indexer::run(indexer::Options { events, only }).await,
            Self::Operator { pipelines, rest } => operator::run(operator::Options { pipelines, rest }).await,
            Self::Bare { address } => bare::serve(address).await,
            Self::Produce => relay::producer::run().await,
        }
    }
}
