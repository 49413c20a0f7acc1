//! The relay's process: see the library.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use commerce_core::{config::Env, exit, shutdown, telemetry};
use commerce_relay::{Config, Relay, parked};

/// Publishes the outbox to Kafka. It is configured by environment variables.
#[derive(Debug, Parser)]
#[command(name = "relay", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Publish events until told to stop.
    Serve,
    /// The events that Kafka refuses, and those that wait behind them. Needs PostgreSQL alone.
    #[command(subcommand)]
    Parked(parked::Command),
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Serve => serve().await,
        Command::Parked(command) => command.run(Env::from_process()).await,
    };
    exit::code(result)
}

async fn serve() -> anyhow::Result<()> {
    let (config, logs) = Config::from_env(Env::from_process())?;
    telemetry::init(&logs);
    let stop = shutdown::on_signal()?;
    Relay::bind(config).await?.run(stop).await?;
    Ok(())
}
