//! What differs between two states of an object, field by field. Pure.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

use super::document::LAST_APPLIED;
use crate::reconcile::names::APPLIED;

/// What the API server keeps for itself.
const KEPT_BY_SERVER: [&str; 7] = [
    "managedFields",
    "resourceVersion",
    "generation",
    "uid",
    "creationTimestamp",
    "selfLink",
    "ownerReferences",
];

/// One object that would be made, changed or removed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    pub action: Action,
    pub kind: String,
    pub name: String,
    /// What changes in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
    /// The whole of a new one.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub object: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Create,
    Update,
    Delete,
}

/// One field that changes. Absent before: it is added; absent after: it is removed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Field {
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

impl Change {
    /// The change from one state of the object at `path` to another, if it is one.
    #[must_use]
    pub fn between(path: &str, before: Option<&Value>, after: Option<&Value>) -> Option<Self> {
        let mut parts = path.rsplit('/');
        let name = parts.next().unwrap_or_default().to_owned();
        let plural = parts.next().unwrap_or_default();
        let kind = [before, after]
            .into_iter()
            .flatten()
            .find_map(|object| object["kind"].as_str());
        let kind = kind.unwrap_or(plural).to_owned();
        let (before, after) = (before.map(essence), after.map(essence));
        let (action, fields, object) = match (before, after) {
            (None, None) => return None,
            (None, Some(after)) => (Action::Create, Vec::new(), after),
            (Some(_), None) => (Action::Delete, Vec::new(), Value::Null),
            (Some(before), Some(after)) => {
                let mut fields = Vec::new();
                compare("", Some(&before), Some(&after), &mut fields);
                if fields.is_empty() {
                    return None;
                }
                (Action::Update, fields, Value::Null)
            }
        };
        Some(Self {
            action,
            kind,
            name,
            fields,
            object,
        })
    }
}

/// The object without what is not anybody's wish.
fn essence(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.shift_remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in KEPT_BY_SERVER {
            metadata.shift_remove(field);
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.shift_remove(APPLIED);
            annotations.shift_remove(LAST_APPLIED);
            if annotations.is_empty() {
                metadata.shift_remove("annotations");
            }
        }
    }
    object
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Field>) {
    if before == after {
        return;
    }
    if let (Some(Value::Object(before)), Some(Value::Object(after))) = (before, after) {
        return entries(before, after, found, |key| {
            if path.is_empty() {
                key.to_owned()
            } else if key.contains(['.', '/']) {
                format!("{path}[{key}]")
            } else {
                format!("{path}.{key}")
            }
        });
    }
    if let (Some(Value::Array(before)), Some(Value::Array(after))) = (before, after)
        && let (Some(before), Some(after)) = (by_name(before), by_name(after))
    {
        return entries(&before, &after, found, |name| format!("{path}[{name}]"));
    }
    found.push(Field {
        path: path.to_owned(),
        before: before.cloned(),
        after: after.cloned(),
    });
}

fn entries(
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    found: &mut Vec<Field>,
    path: impl Fn(&str) -> String,
) {
    let mut seen = BTreeSet::new();
    for key in before.keys().chain(after.keys()) {
        if seen.insert(key) {
            compare(&path(key), before.get(key), after.get(key), found);
        }
    }
}

/// A list of things that have names of their own, by these; `None` for any other list.
fn by_name(items: &[Value]) -> Option<Map<String, Value>> {
    let mut named = Map::new();
    for item in items {
        let name = item.get("name")?.as_str()?.to_owned();
        if named.insert(name, item.clone()).is_some() {
            return None;
        }
    }
    Some(named)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_named_by_where_they_are_and_what_the_server_keeps_is_none() {
        let before = json!({
            "kind": "Deployment",
            "metadata": { "resourceVersion": "1", "annotations": { APPLIED: "a" }, "labels": { "a.b/c": "1" } },
            "spec": { "containers": [{ "name": "api", "image": "x:1" }, { "name": "old" }], "args": ["a"], "gone": 1 },
            "status": { "replicas": 1 },
        });
        let after = json!({
            "kind": "Deployment",
            "metadata": { "resourceVersion": "2", "annotations": { APPLIED: "b" }, "labels": { "a.b/c": "2" } },
            "spec": { "containers": [{ "name": "api", "image": "x:2" }], "args": ["a", "b"], "new": {} },
        });
        let change = Change::between(
            "/apis/apps/v1/namespaces/n/deployments/d",
            Some(&before),
            Some(&after),
        )
        .unwrap();
        let fields: Vec<_> = change
            .fields
            .iter()
            .map(|field| (field.path.as_str(), field.before.is_some(), field.after.is_some()))
            .collect();
        assert_eq!(
            fields,
            [
                ("metadata.labels[a.b/c]", true, true),
                ("spec.containers[api].image", true, true),
                ("spec.containers[old]", true, false),
                ("spec.args", true, true),
                ("spec.gone", true, false),
                ("spec.new", false, true),
            ]
        );
        let other = json!({ "kind": "Deployment", "metadata": { "uid": "x", "labels": { "a.b/c": "1" } }, "spec": before["spec"] });
        assert_eq!(Change::between("/x/d", Some(&before), Some(&other)), None);
    }
}
