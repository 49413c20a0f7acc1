//! The indexer's command line; everything else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use commerce_core::exit;
use commerce_indexer::cli::Cli;
use mimalloc::MiMalloc;

/// Each event is a few small pieces of memory, which live until Elasticsearch has the document: tens of thousands at a time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match Cli::parse().run().await {
        Ok(code) => code,
        Err(error) => exit::code(Err(error)),
    }
}
