//! Where the stores' programs are.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{process::Command, sync::OnceCell};

use super::Error;
use crate::config::Env;

/// The folder that `e2e/cluster/stores` made; that script runs once per process.
pub(super) async fn stores() -> Result<&'static Path, Error> {
    static STORES: OnceCell<PathBuf> = OnceCell::const_new();
    let folder = STORES.get_or_try_init(|| async {
        match Env::from_process().optional_text("COMMERCE_STORES") {
            Some(folder) => Ok(PathBuf::from(folder)),
            None => assemble().await,
        }
    });
    Ok(folder.await?)
}

async fn assemble() -> Result<PathBuf, Error> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../e2e/cluster/stores");
    let problem = |problem: String| Error::Distribution(format!("{script} {problem}"));
    let output = Command::new(script)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| {
            problem(format!(
                "could not be run: {error}; COMMERCE_STORES may name a folder with them"
            ))
        })?;
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(problem(format!("failed with {}:\n{log}", output.status)));
    }
    let printed = String::from_utf8_lossy(&output.stdout);
    let folder = printed
        .lines()
        .last()
        .ok_or_else(|| problem("printed no folder".to_owned()))?;
    Ok(PathBuf::from(folder))
}

/// The Java installation to run Kafka and Elasticsearch with: `JAVA_HOME`, or the one `java` belongs to.
pub(super) fn java_home() -> Result<PathBuf, Error> {
    let mut env = Env::from_process();
    if let Some(home) = env.optional_text("JAVA_HOME") {
        return Ok(PathBuf::from(home));
    }
    let path = env.optional_text("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter_map(|folder| folder.join("java").canonicalize().ok())
        .find_map(|java| Some(java.parent()?.parent()?.to_owned()))
        .ok_or_else(|| Error::Distribution("there is no java on PATH, and JAVA_HOME is not set".to_owned()))
}
