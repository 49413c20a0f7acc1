//! The indexer's command line; everything else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use commerce_core::exit;
use commerce_indexer::cli::Cli;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match Cli::parse().run().await {
        Ok(code) => code,
        Err(error) => exit::code(Err(error)),
    }
}
