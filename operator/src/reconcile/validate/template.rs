//! `podTemplate`: whether it is one.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use super::Problem;
use crate::crd::PodTemplateOverrides;

/// Reads what is to be merged into the pods. A field that Kubernetes does not know would be dropped without a word.
pub fn template(
    field: &'static str,
    spec: Option<&PodTemplateOverrides>,
) -> Result<Option<PodTemplateSpec>, Problem> {
    let Some(spec) = spec else { return Ok(None) };
    let problem = |problem: String| Problem::Template { field, problem };
    let unreadable = |error: serde_json::Error| problem(format!("it is no pod template: {error}"));
    let written = serde_json::to_value(spec).map_err(unreadable)?;
    let read: PodTemplateSpec = serde_json::from_value(written.clone()).map_err(unreadable)?;
    let back = serde_json::to_value(&read).map_err(unreadable)?;
    match lost("", &written, &back) {
        Some(path) => Err(problem(format!(
            "Kubernetes does not know {path} of a pod template: correct or remove it"
        ))),
        None => Ok(Some(read)),
    }
}

/// The first field that was lost on the way through Kubernetes' types.
fn lost(path: &str, written: &Value, read: &Value) -> Option<String> {
    match (written, read) {
        (Value::Object(fields), _) => fields.iter().find_map(|(key, value)| {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            match read.get(key) {
                Some(read) => lost(&path, value, read),
                None if is_empty(value) => None,
                None => Some(path),
            }
        }),
        (Value::Array(items), Value::Array(others)) => items
            .iter()
            .zip(others)
            .enumerate()
            .find_map(|(index, (item, other))| lost(&format!("{path}[{index}]"), item, other)),
        _ => None,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
