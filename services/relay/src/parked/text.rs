//! Parked events for people.

use std::fmt::Write as _;

use commerce_core::print::{counted, safe, table, time};

use super::events::{Content, ParkedEvent};

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
    let rows = events
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
    let mut text = table(TITLES, rows);
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
