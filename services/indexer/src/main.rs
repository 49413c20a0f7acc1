use clap::{Parser, Subcommand};
use commerce_core::{config::Env, shutdown, telemetry};
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
async fn main() -> anyhow::Result<()> {
    let Command::Serve = Cli::parse().command;
    let config = Config::from_env(Env::from_process())?;
    telemetry::init(&config.log);
    let stop = shutdown::on_signal()?;
    Indexer::bind(config).await?.run(stop).await?;
    Ok(())
}
