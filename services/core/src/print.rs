//! What the command-line tools print of what others wrote: no character of it reaches a terminal that is not printable.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::ValueEnum;
use serde::Serialize;

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    #[value(alias = "table")]
    Text,
    /// For programs.
    Json,
}

/// No cell of a table is longer.
const LONGEST: usize = 100;

/// Any value as JSON, on several lines, each ended.
pub fn json(value: &impl Serialize) -> Result<String, serde_json::Error> {
    Ok(escaped(&serde_json::to_string_pretty(value)?) + "\n")
}

/// The same on one line, which is not ended.
pub fn json_line(value: &impl Serialize) -> Result<String, serde_json::Error> {
    Ok(escaped(&serde_json::to_string(value)?))
}

fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        if character == '\n' || is_safe(character) {
            escaped.push(character);
        } else {
            // Outside of strings, JSON has no such character.
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
    }
    escaped
}

/// `3 events`, or `1 event`.
#[must_use]
pub fn counted(count: impl TryInto<u64>, one: &str, many: &str) -> String {
    let count = count.try_into().unwrap_or_default();
    format!("{count} {}", if count == 1 { one } else { many })
}

/// To the second.
#[must_use]
pub fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The text with everything escaped that is not printable: control characters, and those that change how others are shown.
#[must_use]
pub fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if is_safe(character) {
            safe.push(character);
        } else {
            safe.extend(character.escape_debug());
        }
    }
    safe
}

fn is_safe(character: char) -> bool {
    matches!(character, '"' | '\'' | '\\') || character.escape_debug().len() == 1
}

/// Columns as wide as their widest cell.
#[must_use]
pub fn table<const N: usize>(titles: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut lines = vec![titles.map(str::to_owned)];
    lines.extend(
        rows.into_iter()
            .map(|row| row.map(|cell| shortened(&safe(&cell)))),
    );
    let widths: [usize; N] = std::array::from_fn(|column| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or_default()
    });
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<_> = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_unprintable_reaches_the_terminal() {
        let hostile = "a\u{1b}[31m\r\u{9b}2J\u{202e}x\u{200b}\0 \"q\" \\ 'é' 日\n";
        assert_eq!(
            safe(hostile),
            "a\\u{1b}[31m\\r\\u{9b}2J\\u{202e}x\\u{200b}\\0 \"q\" \\ 'é' 日\\n"
        );
        let printed = json(&[hostile, "\u{e0041}"]).unwrap();
        assert!(printed.chars().all(|c| c == '\n' || is_safe(c)), "{printed:?}");
        let back: Vec<String> = serde_json::from_str(&printed).unwrap();
        assert_eq!(back, [hostile, "\u{e0041}"]);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let long = "x".repeat(LONGEST + 1);
        let rows = vec![["日本".to_owned(), "b".to_owned()], [String::new(), long]];
        assert_eq!(
            table(["A", "B"], rows),
            format!("A   B\n日本  b\n    {}…\n", "x".repeat(LONGEST))
        );
    }
}
