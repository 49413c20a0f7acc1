//! The Secrets that other operators write for their stores, as they write them: what the pods are told of a store, and which
//! files they see of its Secrets. No other key of a Secret gets into a pod, and no value of one into an object.

use std::{collections::BTreeMap, fs, path::PathBuf};

use commerce_operator::reconcile::{build, secrets::Secrets, validate::validate};
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use crate::{
    cel::messages,
    fixtures::{CA, CERTIFICATE, KEY, all_secrets, minimal, parsed, secret, stored},
};

/// Of a Cluster `orders`, for its application, as CloudNativePG writes it.
fn cloudnative_pg() -> Vec<Secret> {
    let application = secret(
        "orders-app",
        &[
            ("username", "shop-of-pg"),
            ("user", "shop-of-pg"),
            ("password", "hunter-pg"),
            ("dbname", "shop-of-pg"),
            ("host", "orders-rw"),
            ("port", "5432"),
            ("pgpass", "orders-rw:5432:shop-of-pg:shop-of-pg:hunter-pg\n"),
            (
                "uri",
                "postgresql://shop-of-pg:hunter-pg@orders-rw.store:5432/shop-of-pg",
            ),
            (
                "jdbc-uri",
                "jdbc:postgresql://orders-rw.store:5432/shop-of-pg?password=hunter-pg&user=shop-of-pg",
            ),
            (
                "fqdn-uri",
                "postgresql://shop-of-pg:hunter-pg@orders-rw.store.svc.cluster.local:5432/shop-of-pg",
            ),
        ],
    );
    let authority = secret("orders-ca", &[("ca.crt", CA), ("ca.key", KEY)]);
    // What `kubectl cnpg certificate` writes.
    let client = secret("orders-client", &[("tls.crt", CERTIFICATE), ("tls.key", KEY)]);
    vec![application, authority, client]
}

/// Of a Kafka `events` and its users `orders` and `orders-tls`, as Strimzi writes them.
fn strimzi() -> Vec<Secret> {
    let cluster = [
        ("ca.crt", CA),
        ("ca.p12", "hunter-p12"),
        ("ca.password", "hunter-ca"),
    ];
    let scram = [
        ("password", "hunter-scram"),
        (
            "sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"orders\" password=\"hunter-scram\";",
        ),
    ];
    let tls = [
        // Of the authority that signs clients.
        ("ca.crt", CA),
        ("user.crt", CERTIFICATE),
        ("user.key", KEY),
        ("user.p12", "hunter-p12"),
        ("user.password", "hunter-user"),
    ];
    vec![
        secret("events-cluster-ca-cert", &cluster),
        secret("orders", &scram),
        secret("orders-tls", &tls),
    ]
}

/// Of an Elasticsearch `search`, as ECK writes them.
fn eck() -> Vec<Secret> {
    let chain = format!("{CERTIFICATE}{CA}");
    let public = [("ca.crt", CA), ("tls.crt", chain.as_str())];
    vec![
        secret("search-es-elastic-user", &[("elastic", "hunter-elastic")]),
        secret("search-es-http-certs-public", &public),
    ]
}

/// Of a release `cache` of Bitnami's chart of Redis.
fn bitnami() -> Vec<Secret> {
    let certificates = [("ca.crt", CA), ("tls.crt", CERTIFICATE), ("tls.key", KEY)];
    vec![
        secret("cache-redis", &[("redis-password", "hunter-redis")]),
        secret("cache-redis-crt", &certificates),
    ]
}

/// What each container is told: variables that start with `prefix`, and the files of the volume `store` with the Secret's key that
/// each comes from.
fn told(pipeline: &Value, found: Vec<Secret>, prefix: &str, store: &str) -> BTreeMap<String, Vec<String>> {
    let resource = serde_json::from_value(pipeline.clone()).unwrap();
    let objects = build::objects(&validate(&resource, &Secrets::new(found)).unwrap());
    let mut templates: Vec<_> = objects
        .deployments
        .iter()
        .map(|one| &one.spec.as_ref().unwrap().template)
        .collect();
    templates.extend(
        objects
            .migration
            .iter()
            .map(|job| &job.spec.as_ref().unwrap().template),
    );
    let mut all = BTreeMap::new();
    for template in templates {
        let text = serde_json::to_string(template).unwrap();
        for mark in ["hunter", "shop-of-pg", "BEGIN ", "secretKeyRef", "envFrom"] {
            assert!(!text.contains(mark), "{mark}: {text}");
        }
        let pod = template.spec.as_ref().unwrap();
        let container = &pod.containers[0];
        let mut lines: Vec<_> = container
            .env
            .iter()
            .flatten()
            .filter(|variable| variable.name.starts_with(prefix))
            .map(|variable| {
                format!(
                    "{}={}",
                    variable.name,
                    variable.value.as_deref().unwrap_or_default()
                )
            })
            .collect();
        for volume in pod.volumes.iter().flatten().filter(|volume| volume.name == store) {
            let mounts = container.volume_mounts.iter().flatten();
            let mount = mounts.into_iter().find(|mount| mount.name == store).unwrap();
            assert_eq!(mount.read_only, Some(true));
            let sources = volume.projected.as_ref().unwrap().sources.iter().flatten();
            for source in sources.map(|source| source.secret.as_ref().unwrap()) {
                for item in source.items.iter().flatten() {
                    let (folder, path) = (&mount.mount_path, &item.path);
                    lines.push(format!("{folder}/{path} of {}/{}", source.name, item.key));
                }
            }
        }
        all.insert(container.name.clone(), lines);
    }
    all
}

/// Asserts that these containers, and no others, are told these lines.
fn assert_told(
    (prefix, store): (&str, &str),
    changes: &[(&str, Value)],
    found: Vec<Secret>,
    components: &[&str],
    expected: &[&str],
) {
    let pipeline = stored(&minimal(), changes);
    assert_eq!(messages(&pipeline, None), Vec::<String>::new());
    let all = told(&pipeline, [all_secrets(), found].concat(), prefix, store);
    for (component, lines) in all {
        let expected = if components.contains(&component.as_str()) {
            expected
        } else {
            &[]
        };
        pretty_assertions::assert_eq!(lines, expected, "{component}");
    }
}

#[test]
fn cloudnative_pg_with_its_uri_and_authority() {
    assert_told(
        ("DATABASE_", "postgres"),
        &[
            ("postgres/secretRef", json!({ "name": "orders-app" })),
            (
                "postgres/tls",
                json!({ "caSecretRef": { "name": "orders-ca", "key": "ca.crt" } }),
            ),
        ],
        cloudnative_pg(),
        &["api", "relay", "indexer", "migrate"],
        &[
            "DATABASE_TLS=true",
            "DATABASE_URL_FILE=/etc/commerce/postgres/uri",
            "DATABASE_CA_FILE=/etc/commerce/postgres/ca.crt",
            "DATABASE_POOL_SIZE=10",
            "/etc/commerce/postgres/uri of orders-app/uri",
            "/etc/commerce/postgres/ca.crt of orders-ca/ca.crt",
        ],
    );
}

#[test]
fn cloudnative_pg_with_a_client_certificate() {
    assert_told(
        ("DATABASE_", "postgres"),
        &[
            (
                "postgres/secretRef",
                json!({ "name": "orders-app", "key": "fqdn-uri" }),
            ),
            (
                "postgres/tls",
                json!({
                    "caSecretRef": { "name": "orders-ca", "key": "ca.crt" },
                    "certificateSecretRef": { "name": "orders-client" },
                }),
            ),
        ],
        cloudnative_pg(),
        &["api", "relay", "indexer", "migrate"],
        &[
            "DATABASE_TLS=true",
            "DATABASE_URL_FILE=/etc/commerce/postgres/fqdn-uri",
            "DATABASE_CA_FILE=/etc/commerce/postgres/ca.crt",
            "DATABASE_CERTIFICATE_FILE=/etc/commerce/postgres/tls.crt",
            "DATABASE_KEY_FILE=/etc/commerce/postgres/tls.key",
            "DATABASE_POOL_SIZE=10",
            "/etc/commerce/postgres/fqdn-uri of orders-app/fqdn-uri",
            "/etc/commerce/postgres/ca.crt of orders-ca/ca.crt",
            "/etc/commerce/postgres/tls.crt of orders-client/tls.crt",
            "/etc/commerce/postgres/tls.key of orders-client/tls.key",
        ],
    );
}

#[test]
fn strimzi_with_scram() {
    assert_told(
        ("KAFKA_S", "kafka"),
        &[
            (
                "kafka/tls",
                json!({ "caSecretRef": { "name": "events-cluster-ca-cert", "key": "ca.crt" } }),
            ),
            (
                "kafka/sasl",
                json!({
                    "mechanism": "SCRAM-SHA-512",
                    "username": "orders",
                    "passwordSecretRef": { "name": "orders", "key": "password" },
                }),
            ),
        ],
        strimzi(),
        &["relay", "indexer"],
        &[
            "KAFKA_SECURITY_PROTOCOL=SASL_SSL",
            "KAFKA_SASL_MECHANISM=SCRAM-SHA-512",
            "KAFKA_SASL_USERNAME=orders",
            "KAFKA_SASL_PASSWORD_FILE=/etc/commerce/kafka/password",
            "/etc/commerce/kafka/password of orders/password",
            "/etc/commerce/kafka/ca.crt of events-cluster-ca-cert/ca.crt",
        ],
    );
}

#[test]
fn strimzi_with_a_client_certificate() {
    let tls = json!({
        "caSecretRef": { "name": "events-cluster-ca-cert", "key": "ca.crt" },
        "certificateSecretRef": { "name": "orders-tls", "certificate": "user.crt", "key": "user.key" },
    });
    let files = [
        "/etc/commerce/kafka/ca.crt of events-cluster-ca-cert/ca.crt",
        "/etc/commerce/kafka/tls.crt of orders-tls/user.crt",
        "/etc/commerce/kafka/tls.key of orders-tls/user.key",
    ];
    let variables = [
        "KAFKA_CA_FILE=/etc/commerce/kafka/ca.crt",
        "KAFKA_CERTIFICATE_FILE=/etc/commerce/kafka/tls.crt",
        "KAFKA_KEY_FILE=/etc/commerce/kafka/tls.key",
        "KAFKA_SECURITY_PROTOCOL=SSL",
    ];
    for (prefix, lines) in [
        ("KAFKA_CA_", &variables[..1]),
        ("KAFKA_CERTIFICATE_", &variables[1..2]),
        ("KAFKA_KEY_", &variables[2..3]),
        ("KAFKA_S", &variables[3..]),
    ] {
        assert_told(
            (prefix, "kafka"),
            &[("kafka/tls", tls.clone())],
            strimzi(),
            &["relay", "indexer"],
            &[lines, &files].concat(),
        );
    }
}

#[test]
fn eck_with_its_user_and_authority() {
    assert_told(
        ("ELASTICSEARCH_", "elasticsearch"),
        &[
            ("elasticsearch/url", json!("https://search-es-http:9200")),
            (
                "elasticsearch/auth",
                json!({ "passwordSecretRef": { "name": "search-es-elastic-user", "key": "elastic" } }),
            ),
            (
                "elasticsearch/tls",
                json!({ "caSecretRef": { "name": "search-es-http-certs-public", "key": "ca.crt" } }),
            ),
        ],
        eck(),
        &["api", "indexer"],
        &[
            "ELASTICSEARCH_URL=https://search-es-http:9200",
            "ELASTICSEARCH_INDEX=orders",
            "ELASTICSEARCH_USERNAME=elastic",
            "ELASTICSEARCH_PASSWORD_FILE=/etc/commerce/elasticsearch/password",
            "ELASTICSEARCH_CA_FILE=/etc/commerce/elasticsearch/ca.crt",
            "/etc/commerce/elasticsearch/password of search-es-elastic-user/elastic",
            "/etc/commerce/elasticsearch/ca.crt of search-es-http-certs-public/ca.crt",
        ],
    );
}

/// A chain, as ECK writes it beside the authority, ends with the authority and is taken for one as well.
#[test]
fn eck_with_its_chain() {
    let changes = [
        ("elasticsearch/url", json!("https://search-es-http:9200")),
        (
            "elasticsearch/tls",
            json!({ "caSecretRef": { "name": "search-es-http-certs-public", "key": "tls.crt" } }),
        ),
    ];
    let secrets = Secrets::new([all_secrets(), eck()].concat());
    let pipeline = validate(&parsed(&minimal(), &changes), &secrets).unwrap();
    let trusted = pipeline.elasticsearch.connect.tls.unwrap();
    assert!(trusted.ca().unwrap().ends_with(CA.trim_end()));
}

#[test]
fn bitnami_redis_with_its_password() {
    assert_told(
        ("REDIS_", "redis"),
        &[
            ("redis/secretRef", Value::Null),
            ("redis/host", json!("cache-redis-master")),
            (
                "redis/auth",
                json!({ "passwordSecretRef": { "name": "cache-redis", "key": "redis-password" } }),
            ),
        ],
        bitnami(),
        &["api", "indexer"],
        &[
            "REDIS_HOST=cache-redis-master",
            "REDIS_PORT=6379",
            "REDIS_PASSWORD_FILE=/etc/commerce/redis/password",
            "REDIS_KEY_PREFIX=store:shop:",
            "/etc/commerce/redis/password of cache-redis/redis-password",
        ],
    );
}

#[test]
fn bitnami_redis_with_its_certificates() {
    assert_told(
        ("REDIS_", "redis"),
        &[
            ("redis/secretRef", Value::Null),
            ("redis/host", json!("cache-redis-master.store.svc.cluster.local")),
            (
                "redis/auth",
                json!({ "passwordSecretRef": { "name": "cache-redis", "key": "redis-password" } }),
            ),
            (
                "redis/tls",
                json!({
                    "caSecretRef": { "name": "cache-redis-crt", "key": "ca.crt" },
                    "certificateSecretRef": { "name": "cache-redis-crt" },
                }),
            ),
        ],
        bitnami(),
        &["api", "indexer"],
        &[
            "REDIS_TLS=true",
            "REDIS_HOST=cache-redis-master.store.svc.cluster.local",
            "REDIS_PORT=6379",
            "REDIS_PASSWORD_FILE=/etc/commerce/redis/password",
            "REDIS_CA_FILE=/etc/commerce/redis/ca.crt",
            "REDIS_CERTIFICATE_FILE=/etc/commerce/redis/tls.crt",
            "REDIS_KEY_FILE=/etc/commerce/redis/tls.key",
            "REDIS_KEY_PREFIX=store:shop:",
            "/etc/commerce/redis/password of cache-redis/redis-password",
            "/etc/commerce/redis/ca.crt of cache-redis-crt/ca.crt",
            "/etc/commerce/redis/tls.crt of cache-redis-crt/tls.crt",
            "/etc/commerce/redis/tls.key of cache-redis-crt/tls.key",
        ],
    );
}

/// The example that people copy names these Secrets and no others, and is a pipeline.
#[test]
fn the_example_of_the_chart() {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/commerce-pipeline/examples/operators.yaml");
    let values: Value = serde_norway::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut pipeline = minimal();
    let image = pipeline["spec"]["image"].clone();
    pipeline["spec"] = values["spec"].clone();
    pipeline["spec"]["image"] = image;
    let pipeline = stored(&pipeline, &[]);
    assert_eq!(messages(&pipeline, None), Vec::<String>::new());
    let found = [cloudnative_pg(), strimzi(), eck(), bitnami()].concat();
    let redis = told(&pipeline, found, "REDIS_HOST", "redis");
    assert_eq!(redis["api"].len(), 5, "{redis:?}");
}
