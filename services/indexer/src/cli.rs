//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand, builder::RangedI64ValueParser};
use commerce_core::{config::Env, index, shutdown, telemetry};

use crate::{
    Config, Indexer,
    dlq::Dlq,
    reconcile::{Ended, Rebuild, Verify},
};

/// Of `verify`, where differences are left.
const DIFFERING: u8 = 3;
/// As a shell has it for SIGINT.
const INTERRUPTED: u8 = 130;

/// Brings order events from Kafka into the search index. It is configured by environment variables; the tools beside `serve`
/// need those of the stores they use.
#[derive(Debug, Parser)]
#[command(name = "indexer", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Index events until told to stop.
    Serve,
    Verify(Verify),
    Rebuild(Rebuild),
    #[command(subcommand)]
    Dlq(Dlq),
}

impl Cli {
    /// Does what the command line says.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let env = Env::from_process();
        let ended = match self.command {
            Command::Serve => {
                serve(env).await?;
                Ended::Fine
            }
            Command::Verify(verify) => verify.run(env, shutdown::on_signal()?).await?,
            Command::Rebuild(rebuild) => rebuild.run(env, shutdown::on_signal()?).await?,
            Command::Dlq(dlq) => {
                dlq.run(env).await?;
                Ended::Fine
            }
        };
        Ok(match ended {
            Ended::Fine => ExitCode::SUCCESS,
            Ended::Differing => ExitCode::from(DIFFERING),
            Ended::Refused => ExitCode::from(index::REFUSED),
            Ended::Interrupted => ExitCode::from(INTERRUPTED),
        })
    }
}

async fn serve(env: Env) -> anyhow::Result<()> {
    let config = Config::from_env(env)?;
    telemetry::init(&config.log);
    let stop = shutdown::on_signal()?;
    Indexer::bind(config).await?.run(stop).await?;
    Ok(())
}

/// Ids of orders start at 1. The limit leaves room to count on.
pub(crate) fn order_id() -> RangedI64ValueParser<i64> {
    clap::value_parser!(i64).range(1..=1_000_000_000_000_000_000)
}

/// The name of an index is a part of addresses, so this is stricter than Elasticsearch, which takes more characters.
pub(crate) fn index_name(name: &str) -> Result<String, String> {
    let known = |character: char| {
        character.is_ascii_lowercase() || character.is_ascii_digit() || "-_.".contains(character)
    };
    if name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(known)
        && name.len() <= 255
    {
        Ok(name.to_owned())
    } else {
        Err("it takes lowercase letters, digits, '-', '_' and '.', the first a letter or digit".to_owned())
    }
}
