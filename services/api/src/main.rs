//! The API's command line; everything else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use commerce_api::cli::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::parse().run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", commerce_api::cli::explain(&error));
            ExitCode::FAILURE
        }
    }
}
