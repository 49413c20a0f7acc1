//! What people and programs get to see. Whatever comes from an event may be hostile, so no character of it reaches a
//! terminal that is not printable.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::ValueEnum;
use serde::Serialize;

use super::events::{Content, ParkedEvent};

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// No cell of a table is longer.
const LONGEST: usize = 100;

/// The events, one line each.
pub(super) fn list(events: &[ParkedEvent]) -> String {
    const TITLES: [&str; 9] = [
        "OUTBOX ID",
        "STATE",
        "AGGREGATE",
        "EVENT",
        "ATTEMPTS",
        "BEHIND",
        "PARKED",
        "NEXT ATTEMPT",
        "ERROR",
    ];
    let Some(first) = events.first() else {
        return "no event is parked\n".to_owned();
    };
    let rows: Vec<_> = events
        .iter()
        .map(|event| {
            [
                event.outbox_id.to_string(),
                event.state.clone(),
                aggregate(event),
                event.event_type.clone().unwrap_or_else(|| "-".to_owned()),
                event.attempts.to_string(),
                event.behind.to_string(),
                time(event.parked_at),
                event.next_attempt_at.map_or_else(|| "-".to_owned(), time),
                why(event),
            ]
        })
        .collect();
    let mut text = table(TITLES, &rows);
    if usize::try_from(first.total).is_ok_and(|total| total > events.len()) {
        let _ = writeln!(
            text,
            "{} of {} are shown: --limit shows more",
            events.len(),
            first.total
        );
    }
    text
}

/// All about one.
pub(super) fn show(event: &ParkedEvent, content: Option<&Content>) -> String {
    let mut lines = vec![
        ("outbox id", event.outbox_id.to_string()),
        ("state", event.state.clone()),
        ("aggregate", aggregate(event)),
    ];
    let mut add = |name, value: Option<String>| lines.extend(value.map(|value| (name, value)));
    add("event", event.event_type.clone());
    add("event id", content.map(|content| content.event_id.to_string()));
    add(
        "version",
        content.map(|content| content.aggregate_version.to_string()),
    );
    add(
        "correlation id",
        content.map(|content| content.correlation_id.clone()),
    );
    add("created", event.created_at.map(time));
    add("parked", Some(time(event.parked_at)));
    add("attempts", Some(event.attempts.to_string()));
    add("error", event.last_error.clone());
    add("next attempt", event.next_attempt_at.map(time));
    add(
        "waits behind",
        event.waits_behind.map(|before| format!("event {before}")),
    );
    add("behind it", Some(counted(event.behind, "event", "events")));
    add("sent", event.sent_at.map(time));
    add("discarded", event.discarded_at.map(time));
    add("reason", event.discard_reason.clone());
    let mut text = String::new();
    for (name, value) in lines {
        let _ = writeln!(text, "{name:<16}{}", safe(&value));
    }
    match content {
        None => text.push_str("the outbox does not have the event any more\n"),
        Some(content) => {
            for (name, json) in [("headers", &content.headers), ("payload", &content.payload)] {
                let _ = writeln!(text, "{name}");
                for line in json.get().lines() {
                    let _ = writeln!(text, "  {}", safe(line));
                }
            }
        }
    }
    text
}

/// Any of it as JSON.
pub(super) fn json(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let text = serde_json::to_string_pretty(value)?;
    let mut escaped = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        if character == '\n' || is_safe(character) {
            escaped.push(character);
        } else {
            // Outside of strings, JSON has no such character.
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
    }
    escaped.push('\n');
    Ok(escaped)
}

/// `3 events`, or `1 event`.
pub(super) fn counted(count: i64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// By the database's clock, to the second.
pub(super) fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The text with everything escaped that is not printable: control characters, and those that change how others are
/// shown.
pub(super) fn safe(text: &str) -> String {
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

fn aggregate(event: &ParkedEvent) -> String {
    format!("{} {}", event.aggregate_type, event.aggregate_id)
}

fn why(event: &ParkedEvent) -> String {
    match (&event.discard_reason, &event.last_error, event.waits_behind) {
        (Some(reason), ..) => reason.clone(),
        (_, Some(error), _) => error.clone(),
        (_, _, Some(before)) => format!("waits behind {before}"),
        _ => "-".to_owned(),
    }
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(titles: [&str; N], rows: &[[String; N]]) -> String {
    let mut lines = vec![titles.map(str::to_owned)];
    lines.extend(
        rows.iter()
            .map(|row| row.clone().map(|cell| shortened(&safe(&cell)))),
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
        let printed = table(
            ["A", "B"],
            &[["日本".to_owned(), "b".to_owned()], [String::new(), long]],
        );
        assert_eq!(printed, format!("A   B\n日本  b\n    {}…\n", "x".repeat(LONGEST)));
    }
}
