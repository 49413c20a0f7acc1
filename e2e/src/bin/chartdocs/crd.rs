//! What the definition of CommercePipeline says of its spec: a list of fields for people, and a JSON schema for Helm.

use anyhow::Context as _;
use serde_json::{Map, Value, json};

/// The schema of a pipeline's spec, as the API server has it.
pub struct Definition {
    spec: Value,
}

/// One field of the spec, for the table.
pub struct Field {
    pub path: String,
    pub kind: String,
    /// As JSON.
    pub default: Option<String>,
    pub required: bool,
    pub description: String,
}

impl Definition {
    /// Reads the text of the CustomResourceDefinition.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let definition: Value =
            serde_norway::from_str(text).context("parsing the definition of CommercePipeline")?;
        let spec = definition
            .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec")
            .context("the definition of CommercePipeline has no schema of its spec")?;
        Ok(Self { spec: spec.clone() })
    }

    /// All fields, in the order of the definition, parents before children.
    pub fn fields(&self) -> Vec<Field> {
        let mut fields = Vec::new();
        collect("", &self.spec, &mut fields);
        fields
    }

    /// The chart's schema of values, with the property `spec` made from the definition.
    pub fn put_into(&self, chart_schema: &str) -> anyhow::Result<String> {
        let mut schema: Value = serde_json::from_str(chart_schema).context("parsing values.schema.json")?;
        let spec = schema
            .pointer_mut("/properties/spec")
            .context("values.schema.json has no property `spec`")?;
        *spec = closed(&self.spec);
        Ok(serde_json::to_string_pretty(&schema).context("writing values.schema.json")? + "\n")
    }
}

fn collect(prefix: &str, schema: &Value, fields: &mut Vec<Field>) {
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{name}");
        fields.push(Field {
            kind: kind(property),
            default: property.get("default").map(Value::to_string),
            required: required.contains(&name.as_str()),
            description: property["description"].as_str().unwrap_or_default().to_owned(),
            path: path.clone(),
        });
        collect(&format!("{path}."), property, fields);
        if let Some(items) = property.get("items") {
            collect(&format!("{path}[]."), items, fields);
        }
    }
}

fn kind(schema: &Value) -> String {
    if schema["x-kubernetes-int-or-string"] == true {
        return "integer or string".to_owned();
    }
    if let Some(values) = schema["enum"].as_array() {
        let named: Vec<String> = values
            .iter()
            .filter_map(Value::as_str)
            .map(|value| format!("`{value}`"))
            .collect();
        return named.join(" or ");
    }
    if let Some(items) = schema.get("items") {
        return format!("list of {}", kind(items));
    }
    if let Some(values) = schema
        .get("additionalProperties")
        .filter(|values| values.is_object())
    {
        return format!("map of {}", kind(values));
    }
    schema["type"].as_str().unwrap_or("any").to_owned()
}

/// The same schema in the words of JSON Schema draft 7, refusing every field that it does not know.
fn closed(schema: &Value) -> Value {
    let Some(source) = schema.as_object() else {
        return schema.clone();
    };
    if source.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        let mut accepted = json!({ "type": ["integer", "string"] });
        if let Some(description) = source.get("description") {
            accepted["description"] = description.clone();
        }
        return accepted;
    }
    let mut target = Map::new();
    for (key, value) in source {
        let value = match key.as_str() {
            // Rules that only the API server evaluates, and notes of its own.
            key if key.starts_with("x-kubernetes-") => continue,
            // Go's words for the width of numbers; the bounds are there as `minimum` and `maximum`.
            "format" | "nullable" => continue,
            "properties" => each(value),
            "items" | "additionalProperties" | "not" => closed(value),
            "allOf" | "anyOf" | "oneOf" => value.as_array().into_iter().flatten().map(closed).collect(),
            _ => value.clone(),
        };
        target.insert(key.clone(), value);
    }
    let open = source.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if source.contains_key("properties") && source.contains_key("type") && !open {
        target.entry("additionalProperties").or_insert(Value::Bool(false));
    }
    if source.get("nullable") == Some(&Value::Bool(true)) {
        if let Some(kind) = source.get("type") {
            target.insert("type".to_owned(), json!([kind, "null"]));
        }
        if let Some(Value::Array(values)) = target.get_mut("enum") {
            values.push(Value::Null);
        }
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

    fn definition() -> Definition {
        Definition {
            spec: json!({
                "type": "object",
                "required": ["image"],
                "x-kubernetes-validations": [{ "rule": "true" }],
                "properties": {
                    "image": {
                        "type": "object",
                        "description": "Where images are.",
                        "properties": { "tag": { "type": "string", "nullable": true } },
                    },
                    "policy": { "type": "string", "enum": ["Retain", "Delete"], "default": "Retain" },
                    "mappings": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                    "sizes": { "type": "object", "additionalProperties": { "x-kubernetes-int-or-string": true } },
                },
            }),
        }
    }

    #[test]
    fn the_schema_for_helm_is_closed_where_the_fields_are_known() {
        let schema = closed(&definition().spec);
        assert_eq!(
            schema,
            json!({
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {
                        "type": "object",
                        "description": "Where images are.",
                        "properties": { "tag": { "type": ["string", "null"] } },
                        "additionalProperties": false,
                    },
                    "policy": { "type": "string", "enum": ["Retain", "Delete"], "default": "Retain" },
                    "mappings": { "type": "object" },
                    "sizes": { "type": "object", "additionalProperties": { "type": ["integer", "string"] } },
                },
                "additionalProperties": false,
            })
        );
    }

    #[test]
    fn the_table_lists_every_field_with_its_type() {
        let fields: Vec<String> = definition()
            .fields()
            .iter()
            .map(|field| format!("{} {} {}", field.path, field.kind, field.required))
            .collect();
        assert_eq!(
            fields,
            [
                "image object true",
                "image.tag string false",
                "policy `Retain` or `Delete` false",
                "mappings object false",
                "sizes map of integer or string false",
            ]
        );
    }
}
