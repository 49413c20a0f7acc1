//! The rows of a chart's table of values: what the `# --` comments in values.yaml say of the keys below them.
//!
//! Every value is documented: by a comment of its own, or by that of a map which holds it.

use anyhow::{Context as _, bail};
use serde_norway::Value;

/// One documented value.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// The keys that lead to it, joined by dots.
    pub key: String,
    /// Its default, as JSON.
    pub default: String,
    pub description: String,
}

/// Reads the text of a values.yaml.
pub fn rows(text: &str) -> anyhow::Result<Vec<Row>> {
    let values: Value = serde_norway::from_str(text).context("parsing values.yaml")?;
    let mut rows = Vec::new();
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut comment: Option<String> = None;
    for line in text.lines() {
        let content = line.trim_start();
        if let Some(start) = content.strip_prefix("# -- ") {
            comment = Some(start.trim().to_owned());
        } else if let Some(more) = content.strip_prefix('#') {
            if let Some(comment) = &mut comment {
                comment.push(' ');
                comment.push_str(more.trim());
            }
        } else if let Some((key, _)) = content.split_once(':') {
            let indent = line.len() - content.len();
            path.retain(|(outer, _)| *outer < indent);
            path.push((indent, key));
            let keys: Vec<&str> = path.iter().map(|(_, key)| *key).collect();
            // Lines inside a text block or a list may look like keys, but lead nowhere.
            let Some(value) = lookup(&values, &keys) else {
                continue;
            };
            if let Some(description) = comment.take() {
                rows.push(Row {
                    key: keys.join("."),
                    default: serde_json::to_string(value).context("writing a default as JSON")?,
                    description,
                });
            }
        }
    }
    let mut undocumented = Vec::new();
    find_undocumented(&values, "", &rows, &mut undocumented);
    if !undocumented.is_empty() {
        bail!("no `# --` comment above {}", undocumented.join(", "));
    }
    Ok(rows)
}

fn lookup<'a>(values: &'a Value, keys: &[&str]) -> Option<&'a Value> {
    keys.iter()
        .try_fold(values, |value, key| value.as_mapping()?.get(*key))
}

fn find_undocumented(value: &Value, path: &str, rows: &[Row], undocumented: &mut Vec<String>) {
    if rows.iter().any(|row| row.key == path) {
        return;
    }
    match value.as_mapping() {
        Some(map) if !map.is_empty() => {
            for (key, value) in map {
                let key = key.as_str().unwrap_or_default();
                let path = if path.is_empty() {
                    key.to_owned()
                } else {
                    format!("{path}.{key}")
                };
                find_undocumented(value, &path, rows, undocumented);
            }
        }
        _ => undocumented.push(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_path_the_default_and_the_whole_comment() {
        let rows =
            rows("image:\n  # -- Its tag,\n  # or nothing.\n  tag: \"\"\n# -- How many.\nreplicas: 2\n")
                .unwrap();
        let row = |key: &str, default: &str, description: &str| Row {
            key: key.to_owned(),
            default: default.to_owned(),
            description: description.to_owned(),
        };
        assert_eq!(
            rows,
            [
                row("image.tag", "\"\"", "Its tag, or nothing."),
                row("replicas", "2", "How many.")
            ]
        );
    }

    #[test]
    fn a_map_is_documented_as_a_whole() {
        let rows = rows("# -- Compute resources.\nresources:\n  limits:\n    cpu: 1\n").unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].default, r#"{"limits":{"cpu":1}}"#);
    }

    #[test]
    fn a_value_without_a_comment_is_named() {
        let error = rows("a:\n  b: 1\n  # -- Known.\n  c: 2\n").unwrap_err();
        assert_eq!(error.to_string(), "no `# --` comment above a.b");
    }
}
