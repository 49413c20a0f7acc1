//! What holds for every field of the resource.

use serde_json::Value;

use crate::fixtures::openapi;

fn walk(path: &str, schema: &Value, check: &mut impl FnMut(&str, &Value)) {
    check(path, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), field, check);
    }
    if schema["items"].is_object() {
        walk(&format!("{path}[]"), &schema["items"], check);
    }
    if schema["additionalProperties"].is_object() {
        walk(&format!("{path}{{}}"), &schema["additionalProperties"], check);
    }
}

#[test]
fn every_field_has_a_description() {
    let mut without = Vec::new();
    walk("", openapi(), &mut |path, schema| {
        let leaf = path.rsplit('.').next().unwrap_or_default();
        if !leaf.is_empty()
            && !leaf.ends_with("[]")
            && !leaf.ends_with("{}")
            && schema["description"].is_null()
        {
            without.push(path.to_owned());
        }
    });
    assert_eq!(without, Vec::<String>::new());
}

/// Bounds keep mistakes out, and without them the API server could not estimate what the rules cost.
#[test]
fn every_field_of_the_spec_has_bounds() {
    let mut without = Vec::new();
    walk("spec", &openapi()["properties"]["spec"], &mut |path, schema| {
        let bounded = match schema["type"].as_str() {
            Some("integer") => schema["minimum"].is_number() && schema["maximum"].is_number(),
            Some("string") => schema["maxLength"].is_number() || schema["enum"].is_array(),
            Some("array") => schema["maxItems"].is_number(),
            Some("object") if schema["additionalProperties"].is_object() => {
                schema["maxProperties"].is_number()
            }
            _ => true,
        };
        if !bounded {
            without.push(path.to_owned());
        }
    });
    assert_eq!(without, Vec::<String>::new());
}

#[test]
fn every_rule_has_a_message() {
    walk("", openapi(), &mut |path, schema| {
        for rule in schema["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
        {
            assert!(rule["message"].is_string(), "{path}: {}", rule["rule"]);
        }
    });
}

#[test]
fn no_field_is_nullable() {
    walk("", openapi(), &mut |path, schema| {
        assert!(schema["nullable"].is_null(), "{path}");
    });
}
