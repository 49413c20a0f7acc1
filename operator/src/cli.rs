//! The command line.

use std::{
    io::{IsTerminal as _, Read as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use commerce_core::print::{Output, json};
use kube::Client;

use crate::{
    plan::{self, document::Document, print},
    reconcile::stores::Remote,
    run,
};

/// Of `plan`, as of `kubectl diff`.
const CHANGES: u8 = 1;
/// Of `plan`: there is none.
const FAILED: u8 = 2;

/// The operator of CommercePipeline resources.
#[derive(Debug, Parser)]
#[command(name = "commerce-operator", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the operator. It is configured by environment variables.
    Run,
    Plan(Plan),
}

/// Prints what applying pipelines would change, in the cluster and in the stores, and changes nothing.
///
/// It needs the rights of a person who may apply them, and who may read the Secrets that they refer to. Stores that can't be
/// reached from here are named and left out. It ends with 0 where nothing would change, 1 where something would, and 2 where it
/// can't tell or the operator would stop.
#[derive(Debug, Args)]
struct Plan {
    /// File with the pipelines, in YAML or JSON; `-` reads standard input.
    #[arg(short = 'f', long = "filename")]
    file: PathBuf,
    /// Namespace of pipelines that name none. Default: that of the kubeconfig's context.
    #[arg(short, long)]
    namespace: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl Cli {
    /// Does what the command line says.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run => run::run().await.map(|()| ExitCode::SUCCESS),
            Command::Plan(plan) => Ok(plan.run().await.unwrap_or_else(|error| {
                let _ = writeln!(std::io::stderr(), "commerce-operator plan: {error:#}");
                ExitCode::from(FAILED)
            })),
        }
    }
}

impl Plan {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let text = if self.file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("reading standard input")?;
            text
        } else {
            std::fs::read_to_string(&self.file).with_context(|| format!("reading {}", self.file.display()))?
        };
        let documents = Document::all(&text, self.namespace.as_deref())
            .with_context(|| self.file.display().to_string())?;
        let client = Client::try_default()
            .await
            .context("finding out how to reach the Kubernetes API")?;
        let mut plans = Vec::new();
        for document in &documents {
            plans.push(plan::plan(&client, Arc::new(Remote), document, client.default_namespace()).await?);
        }
        let mut stdout = std::io::stdout();
        let coloured =
            stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let printed = match self.output {
            Output::Json => json(&plans)?,
            Output::Text => plans
                .iter()
                .map(|plan| print::text(plan, coloured))
                .collect::<Vec<_>>()
                .join("\n"),
        };
        stdout
            .write_all(printed.as_bytes())
            .context("printing the plan")?;
        Ok(if plans.iter().any(|plan| plan.stops.is_some()) {
            ExitCode::from(FAILED)
        } else if plans.iter().all(plan::Plan::is_empty) {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(CHANGES)
        })
    }
}
