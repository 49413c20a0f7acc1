//! The schema of a pipeline's spec for Helm, made from the definition of `CommercePipeline`.

use anyhow::Context as _;
use serde_json::{Map, Value, json};

/// The schema of a pipeline's spec, from the text of the `CustomResourceDefinition`.
pub fn spec_schema(definition: &str) -> anyhow::Result<Value> {
    let definition: Value =
        serde_norway::from_str(definition).context("parsing the definition of CommercePipeline")?;
    let spec = definition
        .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec")
        .context("the definition of CommercePipeline has no schema of its spec")?;
    Ok(closed(spec))
}

/// The chart's schema of values, with its property `spec` replaced.
pub fn put_into(chart_schema: &str, spec_schema: Value) -> anyhow::Result<String> {
    let mut schema: Value = serde_json::from_str(chart_schema).context("parsing values.schema.json")?;
    let spec = schema
        .pointer_mut("/properties/spec")
        .context("values.schema.json has no property `spec`")?;
    *spec = spec_schema;
    Ok(serde_json::to_string_pretty(&schema).context("writing values.schema.json")? + "\n")
}

/// The same schema in the words of JSON Schema draft 7, refusing every field that it does not know.
fn closed(schema: &Value) -> Value {
    let Some(source) = schema.as_object() else {
        return schema.clone();
    };
    let marked = |mark: &str| source.get(mark) == Some(&Value::Bool(true));
    let mut target = Map::new();
    for (key, value) in source {
        let value = match key.as_str() {
            // Rules that only the API server evaluates, and notes of its own; and Go's words for the width of numbers.
            "format" => continue,
            key if key.starts_with("x-kubernetes-") => continue,
            "properties" => each(value),
            "items" | "additionalProperties" | "not" => closed(value),
            "allOf" | "anyOf" | "oneOf" => value.as_array().into_iter().flatten().map(closed).collect(),
            _ => value.clone(),
        };
        target.insert(key.clone(), value);
    }
    if marked("x-kubernetes-int-or-string") {
        target.insert("type".to_owned(), json!(["integer", "string"]));
    }
    if source.contains_key("properties") && !marked("x-kubernetes-preserve-unknown-fields") {
        target.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    Value::Object(target)
}

fn each(properties: &Value) -> Value {
    properties
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, schema)| (name.clone(), closed(schema)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_for_helm_is_closed_where_the_fields_are_known() {
        let schema = closed(&json!({
            "type": "object",
            "required": ["image"],
            "x-kubernetes-validations": [{ "rule": "true" }],
            "properties": {
                "image": { "type": "object", "properties": { "tag": { "type": "string" } } },
                "replicas": { "type": "integer", "format": "int32", "minimum": 0 },
                "mappings": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                "limits": { "type": "object", "additionalProperties": { "x-kubernetes-int-or-string": true } },
            },
        }));
        assert_eq!(
            schema,
            json!({
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {
                        "type": "object",
                        "properties": { "tag": { "type": "string" } },
                        "additionalProperties": false,
                    },
                    "replicas": { "type": "integer", "minimum": 0 },
                    "mappings": { "type": "object" },
                    "limits": { "type": "object", "additionalProperties": { "type": ["integer", "string"] } },
                },
                "additionalProperties": false,
            })
        );
    }

    #[test]
    fn only_the_spec_of_the_charts_schema_is_replaced() {
        let schema = r#"{"properties":{"name":{"type":"string"},"spec":{}}}"#;
        let schema: Value =
            serde_json::from_str(&put_into(schema, json!({ "type": "object" })).unwrap()).unwrap();
        assert_eq!(
            schema,
            json!({ "properties": { "name": { "type": "string" }, "spec": { "type": "object" } } })
        );
    }
}
