//! The API's command line; everything else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use commerce_api::cli::Cli;
use commerce_core::exit;

#[tokio::main]
async fn main() -> ExitCode {
    exit::code(Cli::parse().run().await)
}
