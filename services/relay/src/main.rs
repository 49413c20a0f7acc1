//! The relay's process: see the library.

use std::{
    io::{Write as _, stdout},
    process::ExitCode,
};

use anyhow::ensure;
use clap::{Parser, Subcommand};
use commerce_core::{config::Env, exit, postgres::PostgresConfig, shutdown, telemetry};
use commerce_relay::{Config, Relay, history, parked};

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
    /// Say why the relay does not go on with this database, as after a restored backup; with `--yes`, go on with what is
    /// there. Needs PostgreSQL alone.
    Adopt {
        /// Do it, rather than say what would be done.
        #[arg(long)]
        yes: bool,
    },
}

// What there is to do in parallel, Kafka's client does in threads of its own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Serve => serve().await,
        Command::Parked(command) => command.run(Env::from_process()).await,
        Command::Adopt { yes } => adopt(yes).await,
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

async fn adopt(yes: bool) -> anyhow::Result<()> {
    let mut env = Env::from_process();
    let postgres = PostgresConfig::from_env(&mut env);
    let postgres = env.finish(|| postgres)?;
    let found = history::inspect(&postgres).await?;
    writeln!(stdout(), "{found}")?;
    if found.is_sound() {
        return Ok(());
    }
    ensure!(yes, "nothing was changed; `relay adopt --yes` does it");
    writeln!(stdout(), "{}", history::adopt(&postgres).await?)?;
    Ok(())
}
