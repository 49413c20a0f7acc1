//! What the reconciler itself refuses: what no rule at admission can see.

use commerce_operator::reconcile::{
    secrets::Secrets,
    validate::{Invalid, validate},
};
use serde_json::{Value, json};

use crate::fixtures::{all_secrets, full, minimal, parsed, secret, secrets};

fn refused(changes: &[(&str, Value)], secrets: &Secrets) -> Invalid {
    validate(&parsed(&minimal(), changes), secrets).unwrap_err()
}

fn without(name: &str) -> Secrets {
    Secrets::new(
        all_secrets()
            .into_iter()
            .filter(|secret| secret.metadata.name.as_deref() != Some(name)),
    )
}

fn with(name: &str, data: &[(&str, &str)]) -> Secrets {
    let mut all = all_secrets();
    all.retain(|secret| secret.metadata.name.as_deref() != Some(name));
    all.push(secret(name, data));
    Secrets::new(all)
}

#[test]
fn complete_pipelines_are_valid() {
    for pipeline in [minimal(), full()] {
        validate(&parsed(&pipeline, &[]), &secrets()).unwrap();
    }
}

#[test]
fn a_missing_secret_names_field_and_secret() {
    let invalid = refused(&[], &without("pg"));
    assert_eq!(invalid.reason(), "SecretMissing");
    assert_eq!(
        invalid.to_string(),
        "postgres.secretRef names the Secret pg, which does not exist in this namespace: create it, or correct the field"
    );
}

#[test]
fn all_that_is_missing_is_said_at_once() {
    let invalid = refused(&[], &Secrets::default());
    assert_eq!(invalid.problems.len(), 2);
    assert!(invalid.to_string().contains("Secret pg") && invalid.to_string().contains("Secret cache"));
}

#[test]
fn a_missing_key_names_the_keys_that_are_there() {
    let invalid = refused(&[], &with("pg", &[("dsn", "x"), ("password", "y")]));
    assert_eq!(invalid.reason(), "SecretMissing");
    assert!(
        invalid
            .to_string()
            .contains("names the key uri, which the Secret pg does not have (it has: dsn, password)"),
        "{invalid}"
    );
}

#[test]
fn an_empty_value_is_refused() {
    let invalid = refused(&[], &with("cache", &[("uri", " \n")]));
    assert!(
        invalid
            .to_string()
            .contains("the key uri of the Secret cache is empty"),
        "{invalid}"
    );
}

#[test]
fn a_wrong_uri_is_refused_without_repeating_it() {
    for (name, uri) in [
        ("pg", "mysql://app:hunter2@pg/app"),
        ("cache", "http://:hunter2@redis"),
        ("pg", "hunter2"),
    ] {
        let invalid = refused(&[], &with(name, &[("uri", uri)]));
        assert_eq!(invalid.reason(), "SpecInvalid");
        assert!(!invalid.to_string().contains("hunter2"), "{invalid}");
        assert!(invalid.to_string().contains(name), "{invalid}");
    }
}

#[test]
fn keys_for_tokens_that_are_no_keys_are_refused_without_repeating_them() {
    for (reference, algorithm, key, expected) in [
        (
            "secretRef",
            "HS256",
            "short",
            "does not hold a secret of at least 32 bytes",
        ),
        (
            "jwksSecretRef",
            "RS256",
            "secret",
            "does not hold a JSON Web Key Set",
        ),
        ("secretRef", "HS256", "absent", "names the key absent"),
        ("secretRef", "HS256", "secret", ""),
        ("jwksSecretRef", "RS256", "jwks", ""),
    ] {
        let jwt = json!({ "algorithms": [algorithm], reference: { "name": "tokens", "key": key } });
        let pipeline = parsed(&minimal(), &[("api/auth", json!({ "mode": "JWT", "jwt": jwt }))]);
        match validate(&pipeline, &secrets()) {
            Ok(_) => assert_eq!(expected, "", "{jwt}"),
            Err(invalid) => {
                let message = invalid.to_string();
                assert!(!expected.is_empty() && message.contains(expected), "{message}");
                assert!(
                    message.starts_with(&format!("api.auth.jwt.{reference}")),
                    "{message}"
                );
                assert!(!message.contains("hunter"), "{message}");
            }
        }
    }
}

#[test]
fn settings_that_have_a_field_of_their_own_are_refused() {
    for name in ["number_of_shards", "refresh_interval", "index.codec", "index"] {
        let invalid = refused(
            &[("elasticsearch/index/settings", json!({ name: "1" }))],
            &secrets(),
        );
        assert!(
            invalid
                .to_string()
                .contains(&format!("elasticsearch.index.settings is {name}")),
            "{invalid}"
        );
    }
}

#[test]
fn an_object_stored_before_the_rules_is_still_refused() {
    for (field, value) in [
        ("relay/batchSize", json!(0)),
        ("relay/pollInterval", json!("soon")),
        ("indexer/bulk/maxDelay", json!("0ms")),
        ("postgres/poolSize", json!(-1)),
        ("postgres/outboxRetention", json!("a week")),
        ("elasticsearch/url", json!("search")),
        ("kafka/topics/partitions", json!(0)),
        ("elasticsearch/index/replicas", json!(-1)),
        ("api/trustedProxies", json!(["10.0.0.0/33"])),
        ("api/rateLimit", json!({ "requests": 0, "window": "1s" })),
        ("api/auth", json!({ "mode": "JWT" })),
        (
            "api/autoscaling",
            json!({ "minReplicas": 3, "maxReplicas": 2, "targetCPUUtilization": 50 }),
        ),
        (
            "indexer/autoscaling",
            json!({ "minReplicas": 0, "maxReplicas": 2 }),
        ),
    ] {
        let invalid = refused(&[(field, value)], &secrets());
        assert_eq!(invalid.reason(), "SpecInvalid", "{field}");
        assert!(
            invalid.to_string().contains(&field.replace('/', ".")),
            "{field}: {invalid}"
        );
    }
}

#[test]
fn the_key_prefix_defaults_to_namespace_and_name() {
    let pipeline = validate(&parsed(&minimal(), &[]), &secrets()).unwrap();
    assert_eq!(pipeline.redis.connect.key_prefix, "store:shop:");
}

#[test]
fn resources_take_defaults_only_where_they_do_not_contradict() {
    let resources = |asked: Value| {
        let pipeline = validate(&parsed(&minimal(), &[("api/resources", asked)]), &secrets()).unwrap();
        serde_json::to_value(pipeline.api.resources).unwrap()
    };
    assert_eq!(
        resources(json!({})),
        json!({ "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "256Mi" } })
    );
    assert_eq!(
        resources(json!({ "requests": { "memory": "1Gi" } })),
        json!({ "requests": { "cpu": "50m", "memory": "1Gi" } }),
        "a default limit could be below the request"
    );
    assert_eq!(
        resources(json!({ "limits": { "memory": "32Mi", "cpu": 1 } })),
        json!({ "limits": { "memory": "32Mi", "cpu": "1" } }),
        "a default request could be above the limit"
    );
}

#[test]
fn additions_to_pods_that_would_break_them_are_refused_with_their_path() {
    let container = |fields: Value| {
        let mut container = json!({ "name": "api" });
        for (key, value) in fields.as_object().unwrap() {
            container[key] = value.clone();
        }
        json!({ "spec": { "containers": [container] } })
    };
    for (template, problem) in [
        (
            json!({ "spec": { "tolerationz": [] , "nodeSelectorz": { "a": "b" } } }),
            "does not know spec.nodeSelectorz",
        ),
        (
            container(json!({ "imgae": "x" })),
            "does not know spec.containers[0].imgae",
        ),
        (
            json!({ "spec": { "containers": "api" } }),
            "it is no pod template",
        ),
        (
            json!({ "spec": { "serviceAccountName": "admin" } }),
            "spec.serviceAccountName",
        ),
        (
            json!({ "spec": { "automountServiceAccountToken": true } }),
            "spec.automountServiceAccountToken",
        ),
        (
            json!({ "spec": { "restartPolicy": "Never" } }),
            "spec.restartPolicy",
        ),
        (
            json!({ "spec": { "terminationGracePeriodSeconds": 1 } }),
            "spec.terminationGracePeriodSeconds",
        ),
        (
            json!({ "spec": { "volumes": [{ "name": "postgres", "emptyDir": {} }] } }),
            "spec.volumes",
        ),
        (
            json!({ "metadata": { "labels": { "app.kubernetes.io/component": "x" } } }),
            "metadata.labels",
        ),
        (
            json!({ "metadata": { "annotations": { "commerce.lab/secrets": "x" } } }),
            "metadata.annotations",
        ),
        (
            container(json!({ "image": "other" })),
            "spec.containers[api].image",
        ),
        (
            container(json!({ "args": ["migrate"] })),
            "spec.containers[api].args",
        ),
        (
            container(json!({ "command": ["sh"] })),
            "spec.containers[api].command",
        ),
        (
            container(json!({ "env": [{ "name": "HTTP_ADDR", "value": "x" }] })),
            "spec.containers[api].env",
        ),
        (
            container(json!({ "ports": [{ "containerPort": 8080, "name": "web" }] })),
            "spec.containers[api].ports",
        ),
        (
            container(json!({ "volumeMounts": [{ "mountPath": "/etc/commerce/postgres", "name": "x" }] })),
            "spec.containers[api].volumeMounts",
        ),
        (
            container(json!({ "livenessProbe": { "httpGet": { "path": "/", "port": 1 } } })),
            "spec.containers[api].livenessProbe",
        ),
        (
            container(json!({ "readinessProbe": { "exec": { "command": ["true"] } } })),
            "spec.containers[api].readinessProbe",
        ),
        (
            container(json!({ "lifecycle": { "preStop": { "exec": { "command": ["true"] } } } })),
            "spec.containers[api].lifecycle.preStop",
        ),
    ] {
        let invalid = refused(&[("api/podTemplate", template)], &secrets());
        assert_eq!(
            (invalid.reason(), invalid.problems.len()),
            ("SpecInvalid", 1),
            "{invalid}"
        );
        let message = invalid.to_string();
        assert!(
            message.starts_with("api.podTemplate: ") && message.contains(problem),
            "{message}"
        );
    }
}
