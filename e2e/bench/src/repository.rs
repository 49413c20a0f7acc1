//! The repository that this program is run in.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

/// Its folder: the one that the current directory is in.
pub fn folder() -> Result<PathBuf> {
    let here = std::env::current_dir().context("finding the current directory")?;
    here.ancestors()
        .find(|folder| folder.join("docs/benchmarks.md").is_file())
        .map(Path::to_owned)
        .with_context(|| format!("{} is not in the repository", here.display()))
}

/// The folder that a script of e2e/cluster puts together, and prints.
pub async fn assembled(script: &str, arguments: &[&str]) -> Result<PathBuf> {
    let script = folder()?.join("e2e/cluster").join(script);
    let doing = || format!("running {}", script.display());
    let output = Command::new(&script)
        .args(arguments)
        .stderr(std::process::Stdio::inherit())
        .output()
        .await
        .with_context(doing)?;
    ensure!(output.status.success(), "{}: {}", doing(), output.status);
    let printed = String::from_utf8_lossy(&output.stdout);
    Ok(PathBuf::from(
        printed
            .lines()
            .last()
            .with_context(|| format!("{}: it printed no folder", doing()))?,
    ))
}
