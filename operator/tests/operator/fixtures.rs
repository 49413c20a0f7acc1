//! Pipelines and Secrets to test with.

use std::{collections::BTreeMap, sync::LazyLock};

use commerce_operator::{
    crd::{CommercePipeline, definition},
    reconcile::secrets::Secrets,
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{api::ObjectMeta, core::cel::apply_defaults};
use serde_json::{Value, json};

/// The smallest pipeline that is complete.
pub fn minimal() -> Value {
    json!({
        "apiVersion": "commerce.lab/v1alpha1",
        "kind": "CommercePipeline",
        "metadata": { "name": "shop", "namespace": "store", "uid": "8c1f", "generation": 1, "resourceVersion": "1" },
        "spec": {
            "image": { "registry": "ghcr.io/example", "tag": "1.2.3" },
            "postgres": { "secretRef": { "name": "pg" } },
            "kafka": { "bootstrapServers": "kafka:9092" },
            "elasticsearch": { "url": "http://search:9200" },
            "redis": { "secretRef": { "name": "cache" } },
        },
    })
}

fn pod_template() -> Value {
    json!({
        "metadata": { "labels": { "team": "shop" }, "annotations": { "example.com/log": "json" } },
        "spec": {
            "tolerations": [{ "key": "shops", "operator": "Exists" }],
            "terminationGracePeriodSeconds": 60,
            "containers": [
                { "name": "relay", "env": [{ "name": "TZ", "value": "UTC" }], "readinessProbe": { "periodSeconds": 5 } },
                { "name": "log-agent", "image": "example.com/agent:1" },
            ],
        },
    })
}

/// A pipeline with every field set.
pub fn full() -> Value {
    let mut pipeline = minimal();
    pipeline["spec"] = json!({
        "image": { "registry": "registry.example.com:5000/team", "tag": "v2" },
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{ "name": "pull" }],
        "priorityClassName": "shops",
        "deletionPolicy": "Delete",
        "driftPolicy": "Observe",
        "catalogue": { "seed": { "skus": 1000, "stock": 500 } },
        "postgres": {
            "secretRef": { "name": "pg-app", "key": "uri" },
            "tls": {
                "caSecretRef": { "name": "pg-ca", "key": "ca.crt" },
                "certificateSecretRef": { "name": "pg-client", "certificate": "tls.crt", "key": "tls.key" },
            },
            "poolSize": 20, "migrations": "Auto", "outboxRetention": "72h",
        },
        "kafka": {
            "bootstrapServers": "kafka-0:9093,kafka-1:9093",
            "tls": {
                "caSecretRef": { "name": "kafka-ca", "key": "ca.crt" },
                "certificateSecretRef": { "name": "kafka-user", "certificate": "user.crt", "key": "user.key" },
            },
            "sasl": {
                "mechanism": "SCRAM-SHA-512",
                "username": "shop",
                "passwordSecretRef": { "name": "kafka-user", "key": "password" },
            },
            "topics": { "prefix": "shop.", "partitions": 12, "replicationFactor": 3, "config": { "retention.ms": "604800000" } },
        },
        "elasticsearch": {
            "url": "https://search-es-http:9200",
            "auth": { "passwordSecretRef": { "name": "search-es-elastic-user", "key": "elastic" } },
            "tls": {
                "caSecretRef": { "name": "search-es-http-certs-public", "key": "ca.crt" },
                "certificateSecretRef": { "name": "search-client", "certificate": "tls.crt", "key": "tls.key" },
            },
            "index": {
                "name": "shop-orders", "shards": 3, "replicas": 1, "refreshInterval": "5s",
                "mappings": { "properties": { "note": { "type": "text" } } },
                "settings": { "codec": "best_compression" },
            },
        },
        "redis": {
            "host": "cache-redis-master", "port": 6380,
            "auth": { "username": "shop", "passwordSecretRef": { "name": "cache-redis", "key": "redis-password" } },
            "tls": {
                "caSecretRef": { "name": "cache-redis-crt", "key": "ca.crt" },
                "certificateSecretRef": { "name": "cache-redis-crt", "certificate": "tls.crt", "key": "tls.key" },
            },
            "keyPrefix": "shop:", "idempotencyTtl": "48h", "searchCacheTtl": "1m", "searchStaleIfError": "0s",
        },
        "api": {
            "replicas": 3,
            "autoscaling": { "minReplicas": 3, "maxReplicas": 12, "targetCPUUtilization": 60 },
            "resources": { "requests": { "cpu": 1 }, "limits": { "memory": "1Gi" } },
            "ingress": {
                "className": "traefik", "host": "orders.example.com", "tlsSecretName": "orders-tls",
                "annotations": { "cert-manager.io/cluster-issuer": "letsencrypt" },
            },
            "gateway": {
                "parentRefs": [{ "name": "public", "namespace": "gateways", "sectionName": "https" }],
                "hostnames": ["orders.example.com"],
            },
            "auth": {
                "mode": "JWT",
                "jwt": {
                    "algorithms": ["RS256", "ES256"],
                    "jwksUrl": "https://issuer.example.com/.well-known/jwks.json",
                    "caSecretRef": { "name": "issuer-ca", "key": "ca.crt" },
                    "issuer": "https://issuer.example.com/",
                    "audience": "orders",
                },
            },
            "rateLimit": { "requests": 100, "window": "10s" },
            "cors": { "allowedOrigins": ["https://shop.example.com", "http://localhost:3000"] },
            "trustedProxies": ["10.0.0.0/8", "fd00::/8"],
        },
        "relay": { "replicas": 1, "podTemplate": pod_template(), "batchSize": 1000, "pollInterval": "200ms" },
        "indexer": { "replicas": 4, "autoscaling": { "minReplicas": 4, "maxReplicas": 6 }, "bulk": { "maxDocuments": 500, "maxBytes": 1_048_576, "maxDelay": "20ms" } },
        "monitoring": {
            "tracing": { "otlpEndpoint": "http://collector.observability:4318", "samplingRatio": 0.25 },
            "freshnessObjective": "500ms",
            "podMonitor": { "labels": { "release": "prometheus" }, "interval": "10s" },
            "alerts": { "labels": { "release": "prometheus" } },
            "dashboards": { "labels": { "grafana_folder": "shops" } },
        },
        "networkPolicy": {
            "enabled": true,
            "metricsFrom": [{ "namespaceLabels": { "kubernetes.io/metadata.name": "monitoring" }, "podLabels": { "app": "agent" } }],
            "egressPorts": [9443],
        },
    });
    pipeline
}

/// A pipeline as the API server stores it: with defaults filled in, and then `changes` made, by JSON pointers into the spec.
/// A `null` removes a field.
pub fn stored(pipeline: &Value, changes: &[(&str, Value)]) -> Value {
    let mut object = pipeline.clone();
    for (pointer, value) in changes {
        set(&mut object["spec"], pointer, value.clone());
    }
    apply_defaults(openapi(), &object)
}

fn set(value: &mut Value, pointer: &str, new: Value) {
    let (first, rest) = match pointer.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (pointer, None),
    };
    match rest {
        Some(rest) => set(&mut value[first], rest, new),
        None if new.is_null() => drop(value.as_object_mut().and_then(|fields| fields.remove(first))),
        None => value[first] = new,
    }
}

/// The schema of the resource.
pub fn openapi() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
        let crd = serde_json::to_value(definition()).unwrap();
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    });
    &SCHEMA
}

/// The same as [`stored`], as the reconciler sees it.
pub fn parsed(pipeline: &Value, changes: &[(&str, Value)]) -> CommercePipeline {
    serde_json::from_value(stored(pipeline, changes)).unwrap()
}

/// A Secret of the namespace.
pub fn secret(name: &str, data: &[(&str, &str)]) -> Secret {
    let data: BTreeMap<_, _> = data
        .iter()
        .map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec())))
        .collect();
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("store".to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(data),
        ..Secret::default()
    }
}

/// An authority, and a client's certificate of it with its key: always the same, so that fingerprints are.
pub const CA: &str = include_str!("pem/authority.crt");
pub const CERTIFICATE: &str = include_str!("pem/user.crt");
pub const KEY: &str = include_str!("pem/user.key");

/// All Secrets that [`minimal`] and [`full`] refer to.
pub fn all_secrets() -> Vec<Secret> {
    vec![
        secret("pg", &[("uri", "postgresql://app:hunter2@pg:5432/app")]),
        secret(
            "pg-app",
            &[
                ("uri", "postgresql://app:hunter2@pg-rw.store:5432/app"),
                ("username", "app"),
            ],
        ),
        secret("pg-ca", &[("ca.crt", CA)]),
        secret("pg-client", &[("tls.crt", CERTIFICATE), ("tls.key", KEY)]),
        secret("cache", &[("uri", "redis://:hunter3@redis:6379/0")]),
        secret("cache-redis", &[("redis-password", "hunter8")]),
        secret(
            "cache-redis-crt",
            &[("ca.crt", CA), ("tls.crt", CERTIFICATE), ("tls.key", KEY)],
        ),
        secret("kafka-ca", &[("ca.crt", CA)]),
        secret(
            "kafka-user",
            &[
                ("user.crt", CERTIFICATE),
                ("user.key", KEY),
                ("password", "hunter4"),
            ],
        ),
        secret("issuer-ca", &[("ca.crt", CA)]),
        secret(
            "tokens",
            &[
                ("secret", "hunter6, which is at least 32 bytes long"),
                ("short", "hunter7"),
                ("jwks", r#"{"keys":[]}"#),
            ],
        ),
        secret("search-es-elastic-user", &[("elastic", "hunter5")]),
        secret("search-es-http-certs-public", &[("ca.crt", CA)]),
        secret("search-client", &[("tls.crt", CERTIFICATE), ("tls.key", KEY)]),
    ]
}

/// The same, as the reconciler reads them.
pub fn secrets() -> Secrets {
    Secrets::new(all_secrets())
}
