//! The command line.

use std::{io::Write as _, time::Duration};

use anyhow::Context as _;
use backon::{ExponentialBuilder, Retryable as _};
use clap::{Parser, Subcommand};
use commerce_core::{
    config::Env,
    postgres::{self, MigrateError, PostgresConfig},
    shutdown,
    telemetry::{self, LogConfig},
};
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};

use crate::{Config, Server, openapi, seed};

/// The order API of a Commerce Pipeline. It is configured by environment variables.
#[derive(Debug, Parser)]
#[command(name = "api", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API until SIGTERM.
    Serve,
    /// Bring the database's schema up to date, creating the database where it is missing, and fill the catalogue.
    /// Safe to run again and at the same time elsewhere.
    Migrate {
        /// SKUs that the catalogue is to have, with ids from 1. Those that are there already stay as they are.
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..=10_000_000))]
        seed_skus: i64,
        /// Pieces of each SKU that is new.
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(i64).range(0..=1_000_000_000_000))]
        seed_stock: i64,
        /// How long to wait for a PostgreSQL that is away, such as 30s or 5m.
        #[arg(long, default_value = "5m", value_parser = humantime::parse_duration)]
        timeout: Duration,
    },
    /// Print the OpenAPI document.
    Openapi,
}

impl Cli {
    /// Does what the command line says.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve => serve().await,
            Command::Migrate {
                seed_skus,
                seed_stock,
                timeout,
            } => {
                let mut env = Env::from_process();
                let (logs, postgres) = (LogConfig::from_env(&mut env), PostgresConfig::from_env(&mut env));
                let (logs, postgres) = env.finish(|| Some((logs?, postgres?)))?;
                telemetry::init(&logs);
                migrate(&postgres.options, seed_skus, seed_stock, timeout).await
            }
            Command::Openapi => {
                let document = openapi::document(true)
                    .to_pretty_json()
                    .context("writing the OpenAPI document")?;
                writeln!(std::io::stdout(), "{document}").context("printing the OpenAPI document")
            }
        }
    }
}

async fn serve() -> anyhow::Result<()> {
    let mut env = Env::from_process();
    let logs = LogConfig::from_env(&mut env);
    let config = Config::from_env(env)?;
    if let Some(logs) = logs {
        telemetry::init(&logs);
    }
    let stop = shutdown::on_signal().context("listening for signals")?;
    Server::start(config, stop).await?.stopped().await
}

/// Migrates and seeds, waiting for PostgreSQL up to `patience`.
pub async fn migrate(
    options: &PgConnectOptions,
    skus: i64,
    stock: i64,
    patience: Duration,
) -> anyhow::Result<()> {
    let attempt = || async {
        postgres::migrate(options).await?;
        let mut connection = PgConnection::connect_with(options)
            .await
            .map_err(MigrateError::Connect)?;
        seed::seed(&mut connection, skus, stock)
            .await
            .map_err(MigrateError::Connect)
    };
    let backoff = ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(5))
        .with_total_delay(Some(patience))
        .without_max_times();
    let seeded = attempt
        .retry(backoff)
        .when(is_away)
        .notify(|error, wait| tracing::warn!(%error, wait_ms = wait.as_millis(), "PostgreSQL is away; waiting for it"))
        .await?;
    tracing::info!(
        version = postgres::latest_version(),
        skus_added = seeded,
        "the schema is up to date"
    );
    Ok(())
}

fn is_away(error: &MigrateError) -> bool {
    match error {
        MigrateError::Connect(error) | MigrateError::CreateDatabase { source: error, .. } => {
            postgres::is_away(error)
        }
        MigrateError::Migrate(sqlx::migrate::MigrateError::Execute(error)) => postgres::is_away(error),
        MigrateError::Newer { .. } | MigrateError::Migrate(_) => false,
    }
}
