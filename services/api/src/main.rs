//! The API's command line; everything else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use commerce_api::cli::Cli;
use commerce_core::{
    exit,
    postgres::{MigrateError, NEWER_SCHEMA},
};

#[tokio::main]
async fn main() -> ExitCode {
    let result = Cli::parse().run().await;
    let newer = result
        .as_ref()
        .is_err_and(|error| matches!(error.downcast_ref(), Some(MigrateError::Newer { .. })));
    let code = exit::code(result);
    if newer { ExitCode::from(NEWER_SCHEMA) } else { code }
}
