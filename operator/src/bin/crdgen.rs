//! Writes what is generated from the Rust types: `crds/commercepipelines.yaml` and `docs/crd.md`, under the folder given as argument or else here.

use std::{env, fs, path::PathBuf};

use anyhow::Context as _;
use commerce_operator::generated;

fn main() -> anyhow::Result<()> {
    let root = PathBuf::from(env::args().nth(1).unwrap_or_else(|| ".".to_owned()));
    for (path, content) in generated::files()? {
        let path = root.join(path);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
