//! A plan for people: `+` is added, `~` changed, `-` removed, in green, yellow and red on a terminal.

use std::fmt::Write as _;

use commerce_core::print::{counted, json_line, safe};
use serde_json::Value;

use super::{
    Plan,
    difference::{Action, Change, Field},
};

/// The plan as text.
#[must_use]
pub fn text(plan: &Plan, coloured: bool) -> String {
    let pen = Pen(coloured);
    let mut text = format!(
        "{}\n",
        safe(&format!("CommercePipeline {}/{}", plan.namespace, plan.name))
    );
    for change in &plan.changes {
        text.push('\n');
        object(&mut text, change, &pen);
    }
    if !plan.stores.is_empty() {
        text.push('\n');
    }
    for change in &plan.stores {
        let line = format!("~ {}: {}", change.store, change.what);
        let _ = writeln!(text, "{}", pen.draw('~', &line));
    }
    if !plan.notes.is_empty() || plan.stops.is_some() {
        text.push('\n');
    }
    for note in &plan.notes {
        let _ = writeln!(text, "Note: {}", safe(note));
    }
    if let Some(stops) = &plan.stops {
        let _ = writeln!(text, "{}", pen.draw('-', &format!("It would stop: {stops}")));
    }
    let _ = writeln!(text, "\n{}", summary(plan));
    text
}

fn summary(plan: &Plan) -> String {
    if plan.is_empty() {
        return "No changes.".to_owned();
    }
    let count = |action| {
        plan.changes
            .iter()
            .filter(|change| change.action == action)
            .count()
    };
    let mut parts: Vec<_> = [
        (Action::Create, "create"),
        (Action::Update, "change"),
        (Action::Delete, "remove"),
    ]
    .into_iter()
    .map(|(action, what)| format!("{} to {what}", counted(count(action), "object", "objects")))
    .collect();
    parts.push(format!(
        "{} in the stores",
        counted(plan.stores.len(), "change", "changes")
    ));
    format!("{}. Nothing has been changed.", parts.join(", "))
}

fn object(text: &mut String, change: &Change, pen: &Pen) {
    let sign = match change.action {
        Action::Create => '+',
        Action::Update => '~',
        Action::Delete => '-',
    };
    let title = format!("{sign} {} {}", change.kind, change.name);
    let _ = writeln!(text, "{}", pen.draw(sign, &title));
    if change.action == Action::Create {
        // It was JSON a moment ago, so it can be YAML.
        let yaml = serde_norway::to_string(&change.object).unwrap_or_default();
        for line in yaml.lines() {
            let _ = writeln!(text, "{}", pen.draw('+', &format!("    + {line}")));
        }
    }
    for field in &change.fields {
        let _ = writeln!(text, "{}", line(field, pen));
    }
}

fn line(field: &Field, pen: &Pen) -> String {
    let value = |value: &Value| json_line(value).unwrap_or_default();
    let path = &field.path;
    match (&field.before, &field.after) {
        (None, Some(after)) => pen.draw('+', &format!("    + {path}: {}", value(after))),
        (Some(before), None) => pen.draw('-', &format!("    - {path}: {}", value(before))),
        (Some(before), Some(after)) => pen.draw(
            '~',
            &format!("    ~ {path}: {} -> {}", value(before), value(after)),
        ),
        (None, None) => String::new(),
    }
}

struct Pen(bool);

impl Pen {
    fn draw(&self, sign: char, line: &str) -> String {
        let line = safe(line);
        let colour = match sign {
            '+' => 32,
            '-' => 31,
            _ => 33,
        };
        if self.0 {
            format!("\u{1b}[{colour}m{line}\u{1b}[0m")
        } else {
            line
        }
    }
}
