//! Tables in docs/benchmarks.md.

use std::path::Path;

use anyhow::{Context as _, Result};

/// Puts `text` between the lines `<!-- <bench> -->` and `<!-- /<bench> -->`.
pub fn write(repository: &Path, bench: &str, text: &str) -> Result<()> {
    let path = repository.join("docs/benchmarks.md");
    let page = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let (begin, end) = (format!("<!-- {bench} -->\n"), format!("<!-- /{bench} -->\n"));
    let parts = page
        .split_once(&begin)
        .and_then(|(head, rest)| Some((head, rest.split_once(&end)?.1)));
    let (head, tail) = parts.with_context(|| format!("{} has no place for {bench}", path.display()))?;
    std::fs::write(&path, format!("{head}{begin}{text}{end}{tail}"))
        .with_context(|| format!("writing {}", path.display()))
}
