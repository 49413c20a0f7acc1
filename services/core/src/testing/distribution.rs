//! Where the programs are that tests run.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{process::Command, sync::OnceCell};

use super::Error;
use crate::config::Env;

/// The folder that `e2e/cluster/stores` made, or that `COMMERCE_STORES` names; the script runs once per process.
pub async fn stores() -> Result<&'static Path, Error> {
    static STORES: OnceCell<PathBuf> = OnceCell::const_new();
    Ok(STORES
        .get_or_try_init(|| folder("stores", "COMMERCE_STORES"))
        .await?)
}

/// The Python of the environment that `e2e/cluster/schemathesis` made, with the packages `schemathesis` and
/// `openapi_spec_validator`; `COMMERCE_SCHEMATHESIS` names an environment to take instead.
pub async fn schemathesis() -> Result<PathBuf, Error> {
    Ok(folder("schemathesis", "COMMERCE_SCHEMATHESIS")
        .await?
        .join("bin/python"))
}

/// What `variable` names, else what the script prints.
async fn folder(script: &str, variable: &str) -> Result<PathBuf, Error> {
    match Env::from_process().optional_text(variable) {
        Some(folder) => Ok(PathBuf::from(folder)),
        None => assemble(script, variable).await,
    }
}

async fn assemble(script: &str, variable: &str) -> Result<PathBuf, Error> {
    let script = format!("{}/../../e2e/cluster/{script}", env!("CARGO_MANIFEST_DIR"));
    let problem = |problem: String| Error::Distribution(format!("{script} {problem}"));
    let output = Command::new(&script)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| {
            problem(format!(
                "could not be run: {error}; {variable} may name the folder that it would make"
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
pub fn java_home() -> Result<PathBuf, Error> {
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
