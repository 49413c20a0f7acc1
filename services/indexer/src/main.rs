use std::process::ExitCode;

use clap::{Parser, Subcommand};
use commerce_core::{config::Env, exit, shutdown, telemetry};
use commerce_indexer::{Config, Indexer};

/// Brings order events from Kafka into the search index.
#[derive(Parser)]
#[command(name = "indexer", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Index events until told to stop. Configured by environment variables.
    Serve,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Command::Serve = Cli::parse().command;
    exit::code(serve().await)
}

async fn serve() -> anyhow::Result<()> {
    let config = Config::from_env(Env::from_process())?;
    telemetry::init(&config.log);
    let stop = shutdown::on_signal()?;
    Indexer::bind(config).await?.run(stop).await?;
    Ok(())
}
