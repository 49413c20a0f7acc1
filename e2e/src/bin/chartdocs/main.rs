//! Writes what the charts say about themselves from its sources, so that it cannot drift:
//!
//! - the table of values in each chart's README.md, from the `# --` comments of its values.yaml;
//! - the property `spec` of charts/commerce-pipeline/values.schema.json, from the definition of `CommercePipeline` in crds/.
//!
//! `chartdocs` writes the files; `chartdocs --check` only tells which are not up to date, and fails if any is.

mod crd;
mod markdown;
mod values;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Parser;

/// Writes the generated parts of the charts' READMEs and value schemas.
#[derive(Parser)]
struct Arguments {
    /// Change nothing; fail if a file is not up to date.
    #[arg(long)]
    check: bool,
    /// The repository's folder.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/.."))]
    root: PathBuf,
}

/// A file and what it should hold.
struct Generated {
    path: PathBuf,
    text: String,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut stale = Vec::new();
    for Generated { path, text } in generate(&arguments.root)? {
        if read(&path)? == text {
            continue;
        }
        if !arguments.check {
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        stale.push(
            path.strip_prefix(&arguments.root)
                .unwrap_or(&path)
                .display()
                .to_string(),
        );
    }
    if arguments.check && !stale.is_empty() {
        eprintln!(
            "not up to date: {}; run `cargo run -p commerce-e2e --bin chartdocs`",
            stale.join(", ")
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn generate(root: &Path) -> anyhow::Result<Vec<Generated>> {
    let mut generated = Vec::new();
    for chart in charts(root)? {
        let rows = values::rows(&read(&chart.join("values.yaml"))?)
            .with_context(|| format!("reading the values of {}", chart.display()))?;
        let path = chart.join("README.md");
        let text = markdown::replace(&read(&path)?, "values", &markdown::value_table(&rows))
            .with_context(|| format!("writing the table of values into {}", path.display()))?;
        generated.push(Generated { path, text });
    }
    let spec = crd::spec_schema(&read(&root.join("crds/commercepipelines.yaml"))?)?;
    let path = root.join("charts/commerce-pipeline/values.schema.json");
    generated.push(Generated {
        text: crd::put_into(&read(&path)?, spec)?,
        path,
    });
    Ok(generated)
}

/// The folders of all charts, in the order of their names.
fn charts(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let folder = root.join("charts");
    let mut charts = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry?.path();
        if path.join("Chart.yaml").is_file() {
            charts.push(path);
        }
    }
    if charts.is_empty() {
        bail!("{} holds no chart", folder.display());
    }
    charts.sort();
    Ok(charts)
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}
