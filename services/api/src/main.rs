//! The API's command line; everything else is in the library.

use clap::Parser as _;
use commerce_api::cli::Cli;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    Cli::parse().run().await
}
