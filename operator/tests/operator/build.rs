//! What is built, compared with golden files. `UPDATE_GOLDEN=1 cargo test -p commerce-operator` rewrites them; a difference in
//! a pod template means that an upgrade of the operator restarts pods.

use std::{ffi::OsString, fs, path::PathBuf};

use commerce_core::testing::Authority;
use commerce_operator::reconcile::{build, names::Component, secrets::Secrets, validate::validate};
use k8s_openapi::ByteString;
use serde_json::{Value, json};

use crate::fixtures::{all_secrets, full, minimal, parsed, secrets};

fn built(pipeline: &Value, changes: &[(&str, Value)]) -> Vec<Value> {
    let pipeline = validate(&parsed(pipeline, changes), &secrets()).unwrap();
    let objects = build::objects(&pipeline);
    let mut all = vec![serde_json::to_value(&objects.account).unwrap()];
    all.extend(
        objects
            .migration
            .iter()
            .map(|job| serde_json::to_value(job).unwrap()),
    );
    all.extend(
        objects
            .deployments
            .iter()
            .map(|deployment| serde_json::to_value(deployment).unwrap()),
    );
    all.extend(
        objects
            .services
            .iter()
            .map(|service| serde_json::to_value(service).unwrap()),
    );
    all.extend(
        objects
            .budgets
            .iter()
            .map(|budget| serde_json::to_value(budget).unwrap()),
    );
    all.extend(
        objects
            .ingress
            .iter()
            .map(|ingress| serde_json::to_value(ingress).unwrap()),
    );
    all.extend(
        objects
            .autoscaler
            .iter()
            .map(|autoscaler| serde_json::to_value(autoscaler).unwrap()),
    );
    all.extend(
        objects
            .policies
            .iter()
            .map(|policy| serde_json::to_value(policy).unwrap()),
    );
    all.extend(
        objects
            .optional
            .iter()
            .map(|(_, object)| serde_json::to_value(object).unwrap()),
    );
    let reindex = build::reindex(&pipeline, "orders-00000000-1");
    all.push(serde_json::to_value(reindex).unwrap());
    all
}

fn compare(name: &str, objects: &[Value]) {
    let documents: Vec<_> = objects
        .iter()
        .map(|object| serde_norway::to_string(object).unwrap())
        .collect();
    let text = format!("---\n{}", documents.join("---\n"));
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN") == Some(OsString::from("1")) {
        fs::write(&path, &text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    pretty_assertions::assert_eq!(golden, text, "{name} differs; UPDATE_GOLDEN=1 rewrites it");
}

#[test]
fn a_minimal_pipeline() {
    compare("minimal.yaml", &built(&minimal(), &[]));
}

#[test]
fn a_pipeline_with_every_field_set() {
    compare("full.yaml", &built(&full(), &[]));
}

#[test]
fn without_automatic_migrations_there_is_no_job_for_them() {
    let objects = built(&minimal(), &[("postgres/migrations", json!("Manual"))]);
    let migrates = |object: &Value| object["metadata"]["labels"]["app.kubernetes.io/component"] == "migrate";
    assert!(!objects.iter().any(migrates));
}

#[test]
fn another_image_seed_or_database_is_another_job_and_another_size_is_not() {
    let job = |changes: &[(&str, Value)]| {
        let objects = built(&minimal(), changes);
        objects.iter().find(|object| object["kind"] == "Job").unwrap()["metadata"]["name"].clone()
    };
    let first = job(&[]);
    assert_ne!(first, job(&[("image/tag", json!("1.2.4"))]));
    assert_ne!(first, job(&[("catalogue", json!({ "seed": { "skus": 5 } }))]));
    assert_ne!(
        first,
        job(&[("postgres/secretRef", json!({ "name": "pg-app", "key": "uri" }))])
    );
    assert_eq!(first, job(&[("api/replicas", json!(5))]));
}

#[test]
fn another_image_mapping_or_secret_is_another_job_that_fills_an_index_and_another_index_before_is_not() {
    let name = |changes: &[(&str, Value)], from: &str| {
        let pipeline = validate(&parsed(&minimal(), changes), &secrets()).unwrap();
        build::reindex(&pipeline, from).metadata.name.unwrap()
    };
    let first = name(&[], "orders-00000000-1");
    assert!(
        first.len() - "shop".len() <= 63 - 40 - "-abcde".len(),
        "{first}: pods are named after it"
    );
    for other in [
        ("image/tag", json!("1.2.4")),
        (
            "elasticsearch/index/mappings",
            json!({ "properties": { "note": { "type": "text" } } }),
        ),
        ("postgres/secretRef", json!({ "name": "pg-app", "key": "uri" })),
    ] {
        assert_ne!(
            first,
            name(std::slice::from_ref(&other), "orders-00000000-1"),
            "{}",
            other.0
        );
    }
    assert_eq!(
        first,
        name(&[("indexer/replicas", json!(5))], "orders-11111111-1")
    );
}

/// What is about pods, and what its programs may need; nothing that would keep the Job from ending.
#[test]
fn the_job_that_fills_an_index_takes_what_a_spec_adds_to_the_indexers_pods() {
    let added = json!({
        "metadata": { "labels": { "team": "shop" } },
        "spec": {
            "restartPolicy": "Always",
            "tolerations": [{ "key": "shops", "operator": "Exists" }],
            "volumes": [{ "name": "scratch", "emptyDir": {} }],
            "initContainers": [{ "name": "wait", "image": "example.com/wait:1" }],
            "containers": [
                { "name": "indexer", "env": [{ "name": "TZ", "value": "UTC" }], "volumeMounts": [{ "name": "scratch", "mountPath": "/tmp" }] },
                { "name": "log-agent", "image": "example.com/agent:1" },
            ],
        },
    });
    let objects = built(&minimal(), &[("indexer/podTemplate", added)]);
    let template = &objects.last().unwrap()["spec"]["template"];
    let (labels, spec) = (&template["metadata"]["labels"], &template["spec"]);
    assert_eq!(
        (&labels["team"], &labels["app.kubernetes.io/component"]),
        (&json!("shop"), &json!("reindex"))
    );
    assert_eq!(spec["tolerations"][0]["key"], "shops");
    assert_eq!(spec["restartPolicy"], "Never");
    for (kind, name) in [("initContainers", "rebuild"), ("containers", "verify")] {
        let containers = spec[kind].as_array().unwrap();
        let names: Vec<_> = containers.iter().map(|container| &container["name"]).collect();
        assert_eq!(names, [name]);
        let last = |field: &str| containers[0][field].as_array().unwrap().last().unwrap().clone();
        assert_eq!(last("env")["name"], "TZ");
        assert_eq!(last("volumeMounts")["name"], "scratch");
    }
}

#[test]
fn the_api_gets_its_keys_as_files() {
    for (jwt, variable, file) in [
        (
            json!({ "algorithms": ["HS256"], "secretRef": { "name": "tokens", "key": "secret" } }),
            "AUTH_JWT_SECRET_FILE",
            "secret",
        ),
        (
            json!({ "algorithms": ["ES256"], "jwksSecretRef": { "name": "tokens", "key": "jwks" } }),
            "AUTH_JWKS_FILE",
            "jwks.json",
        ),
    ] {
        let objects = built(&minimal(), &[("api/auth", json!({ "mode": "JWT", "jwt": jwt }))]);
        let api = objects
            .iter()
            .find(|object| object["kind"] == "Deployment" && object["metadata"]["name"] == "shop-api")
            .unwrap();
        let pod = &api["spec"]["template"]["spec"];
        let variables = pod["containers"][0]["env"].as_array().unwrap();
        let expected = json!({ "name": variable, "value": format!("/etc/commerce/auth/{file}") });
        assert!(variables.contains(&expected), "{variables:?}");
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == "auth").unwrap();
        assert_eq!(
            volume["projected"]["sources"][0]["secret"]["items"][0]["path"],
            file
        );
        assert!(!objects.iter().any(|object| object.to_string().contains("hunter")));
    }
}

/// Of each policy, in its order: its name, the ports that others may call, and those that its pods may call besides DNS.
#[test]
fn network_policies_allow_what_a_component_does_and_nothing_else() {
    let objects = built(
        &full(),
        &[
            ("networkPolicy", json!({ "enabled": true })),
            ("kafka/bootstrapServers", json!("a:9093,b:9094")),
        ],
    );
    let ports = |rule: &Value| -> Vec<i64> {
        let ports = rule["ports"].as_array().into_iter().flatten();
        ports.map(|port| port["port"].as_i64().unwrap()).collect()
    };
    let policies = objects.iter().filter(|object| object["kind"] == "NetworkPolicy");
    let found: Vec<_> = policies
        .map(|policy| {
            let spec = &policy["spec"];
            let labels = &spec["podSelector"]["matchLabels"];
            let called = spec["ingress"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(ports)
                .collect::<Vec<_>>();
            assert_eq!(ports(&spec["egress"][0]), [53, 53, 5353, 5353]);
            assert_eq!(labels["app.kubernetes.io/instance"], "shop");
            (
                labels["app.kubernetes.io/component"].as_str().unwrap(),
                called,
                ports(&spec["egress"][1]),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("indexer", vec![9090], vec![4318, 5432, 6380, 9093, 9094, 9200]),
            ("relay", vec![9090], vec![4318, 5432, 9093, 9094]),
            ("api", vec![8080, 9090], vec![443, 4318, 5432, 6380, 9200]),
            ("migrate", vec![], vec![5432]),
            ("reindex", vec![], vec![5432, 9200]),
        ]
    );
}

#[test]
fn replicas_that_an_autoscaler_chooses_are_not_applied() {
    let objects = built(
        &full(),
        &[(
            "api/autoscaling",
            json!({ "minReplicas": 3, "maxReplicas": 9, "targetCPUUtilization": 60 }),
        )],
    );
    let find = |kind: &str| {
        let found = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == "shop-api";
        objects.iter().find(found).unwrap()
    };
    assert!(find("Deployment")["spec"].get("replicas").is_none());
    let spec = &find("HorizontalPodAutoscaler")["spec"];
    assert_eq!(
        spec["scaleTargetRef"],
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "shop-api" })
    );
    assert_eq!(
        (&spec["minReplicas"], &spec["maxReplicas"]),
        (&json!(3), &json!(9))
    );
    assert_eq!(spec["metrics"][0]["resource"]["target"]["averageUtilization"], 60);
}

#[test]
fn what_a_spec_adds_to_pods_is_merged_by_name() {
    let objects = built(&full(), &[]);
    let deployment = objects
        .iter()
        .find(|object| object["kind"] == "Deployment" && object["metadata"]["name"] == "shop-relay");
    let template = &deployment.unwrap()["spec"]["template"];
    let (labels, spec) = (&template["metadata"]["labels"], &template["spec"]);
    assert_eq!(
        (&labels["team"], &labels["app.kubernetes.io/component"]),
        (&json!("shop"), &json!("relay"))
    );
    let names: Vec<_> = spec["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| &container["name"])
        .collect();
    assert_eq!(names, ["relay", "log-agent"]);
    let own = &spec["containers"][0];
    let variables = own["env"].as_array().unwrap();
    assert_eq!(
        (&variables[0]["name"], &variables.last().unwrap()["name"]),
        (&json!("DATABASE_TLS"), &json!("TZ"))
    );
    assert_eq!(
        own["readinessProbe"],
        json!({ "httpGet": { "path": "/readyz", "port": "admin" }, "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 2 })
    );
    assert_eq!(
        (&spec["terminationGracePeriodSeconds"], &spec["priorityClassName"]),
        (&json!(60), &json!("shops"))
    );
}

#[test]
fn no_secret_is_in_an_object() {
    for objects in [built(&minimal(), &[]), built(&full(), &[])] {
        for object in objects {
            assert!(
                !object.to_string().contains("hunter"),
                "{}",
                object["metadata"]["name"]
            );
        }
    }
}

/// The fingerprint that makes a component's pods be replaced when it changes.
fn fingerprints(secrets: &Secrets) -> [(Component, String); 3] {
    let objects = build::objects(&validate(&parsed(&full(), &[]), secrets).unwrap());
    [Component::Api, Component::Relay, Component::Indexer].map(|component| {
        let name = build::child_name("shop", component);
        let mut all = objects.deployments.iter();
        let deployment = all.find(|deployment| deployment.metadata.name.as_ref() == Some(&name));
        let template = &deployment.unwrap().spec.as_ref().unwrap().template;
        let annotations = template.metadata.as_ref().unwrap().annotations.as_ref().unwrap();
        (component, annotations["commerce.lab/secrets"].clone())
    })
}

/// A Secret, what changes in it, and whose pods are replaced.
struct Rotated<'a>(&'a str, &'a [(&'a str, &'a str)], &'a [Component]);

#[test]
fn a_changed_secret_rolls_the_pods_that_use_it_and_no_others() {
    use Component::{Api, Indexer, Relay};

    let authority = Authority::new("another").unwrap();
    let client = authority.client("shop").unwrap();
    let (ca, certificate, key) = (authority.pem(), &*client.certificate, &*client.key);
    let pair = [("tls.crt", certificate), ("tls.key", key)];
    let uri = "postgresql://app:new@pg-rw.store:5432/app";
    let table = [
        Rotated("pg-app", &[("uri", uri)], &[Api, Relay, Indexer]),
        Rotated("pg-ca", &[("ca.crt", ca)], &[Api, Relay, Indexer]),
        Rotated("pg-client", &pair, &[Api, Relay, Indexer]),
        Rotated("kafka-ca", &[("ca.crt", ca)], &[Relay, Indexer]),
        Rotated("kafka-user", &[("password", "new")], &[Relay, Indexer]),
        Rotated(
            "kafka-user",
            &[("user.crt", certificate), ("user.key", key)],
            &[Relay, Indexer],
        ),
        Rotated("search-es-elastic-user", &[("elastic", "new")], &[Api, Indexer]),
        Rotated("search-es-http-certs-public", &[("ca.crt", ca)], &[Api, Indexer]),
        Rotated("search-client", &pair, &[Api, Indexer]),
        Rotated("cache-redis", &[("redis-password", "new")], &[Api, Indexer]),
        Rotated("cache-redis-crt", &[("ca.crt", ca)], &[Api, Indexer]),
        Rotated("cache-redis-crt", &pair, &[Api, Indexer]),
        Rotated("issuer-ca", &[("ca.crt", ca)], &[Api]),
        // What nobody uses: a key beside the others, and other Secrets of the namespace.
        Rotated("pg-app", &[("username", "new")], &[]),
        Rotated("cache", &[("uri", "redis://:new@redis:6379/0")], &[]),
        Rotated("tokens", &[("secret", "new")], &[]),
    ];
    let before = fingerprints(&secrets());
    for Rotated(name, changed, expected) in table {
        let mut all = all_secrets();
        let found = all
            .iter_mut()
            .find(|one| one.metadata.name.as_deref() == Some(name));
        let data = found.unwrap().data.as_mut().unwrap();
        for (key, value) in changed {
            data.insert((*key).to_owned(), ByteString(value.as_bytes().to_vec()));
        }
        let after = fingerprints(&Secrets::new(all));
        let pairs = before.iter().zip(&after);
        let rolled: Vec<_> = pairs
            .filter(|(before, after)| before != after)
            .map(|((component, _), _)| *component)
            .collect();
        assert_eq!(
            &rolled,
            expected,
            "{name}: {:?}",
            changed.iter().map(|(key, _)| key).collect::<Vec<_>>()
        );
    }
}
