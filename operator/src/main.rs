//! `commerce-operator run`

use clap::Parser;

/// The operator of CommercePipeline resources.
#[derive(Parser)]
#[command(name = "commerce-operator", version)]
enum Command {
    /// Runs the operator. It is configured by environment variables.
    Run,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Run => commerce_operator::run::run().await,
    }
}
