//! Tables in Markdown, and the places in a README that they are written to.

use std::fmt::Write as _;

use anyhow::{Context as _, bail};

use crate::values::Row;

/// Replaces what stands between the lines `<!-- NAME -->` and `<!-- /NAME -->`.
pub fn replace(text: &str, name: &str, content: &str) -> anyhow::Result<String> {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->\n"));
    let (head, rest) = text
        .split_once(&begin)
        .with_context(|| format!("there is no line `{}`", begin.trim()))?;
    let (_, tail) = rest
        .split_once(&end)
        .with_context(|| format!("there is no line `{}`", end.trim()))?;
    if tail.contains(&begin) {
        bail!("there is more than one line `{}`", begin.trim());
    }
    Ok(format!("{head}{begin}{content}{end}{tail}"))
}

pub fn value_table(rows: &[Row]) -> String {
    let mut table = String::from("| value | default | what it is |\n| --- | --- | --- |\n");
    for Row {
        key,
        default,
        description,
    } in rows
    {
        let _ = writeln!(table, "| `{key}` | `{default}` | {} |", cell(description));
    }
    table
}

/// A cell is one line, and a bar would end it.
fn cell(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let text = "before\n<!-- values -->\nold\n<!-- /values -->\nafter\n";
        let expected = "before\n<!-- values -->\nnew\n<!-- /values -->\nafter\n";
        assert_eq!(replace(text, "values", "new\n").unwrap(), expected);
    }

    #[test]
    fn a_readme_without_the_place_is_an_error() {
        let error = replace("text\n", "values", "").unwrap_err();
        assert_eq!(error.to_string(), "there is no line `<!-- values -->`");
    }

    #[test]
    fn a_bar_does_not_end_the_cell() {
        assert_eq!(cell("json |\n text"), "json \\| text");
    }
}
