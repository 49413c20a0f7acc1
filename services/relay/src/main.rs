//! The relay's process: see the library.

use clap::{Parser, Subcommand};
use commerce_core::{config::Env, shutdown, telemetry};
use commerce_relay::{Config, Relay};

/// Publishes the outbox to Kafka.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Publishes events until told to stop.
    Serve,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments {
        command: Command::Serve,
    } = Arguments::parse();
    let (config, logs) = Config::from_env(Env::from_process())?;
    telemetry::init(&logs);
    let stop = shutdown::on_signal()?;
    Relay::bind(config).await?.run(stop).await?;
    Ok(())
}
