//! What the API server refuses, with the message that a person gets, evaluated without an API server.

use kube::core::cel::Validator;
use serde_json::{Value, json};

use crate::fixtures::{full, minimal, openapi, stored};

/// One specification that is refused: the changes that make it wrong, and part of the message.
struct Refused(&'static [(&'static str, &'static str)], &'static str);

fn changes(table: &[(&'static str, &str)]) -> Vec<(&'static str, Value)> {
    table
        .iter()
        .map(|(pointer, json)| (*pointer, serde_json::from_str(json).unwrap()))
        .collect()
}

/// What the API server would say to a change, or to a new object.
pub fn messages(new: &Value, old: Option<&Value>) -> Vec<String> {
    match Validator::new().validate(openapi(), new, old) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(|error| error.message.clone()).collect(),
    }
}

#[test]
fn good_pipelines_are_accepted() {
    for good in [stored(&minimal(), &[]), stored(&full(), &[])] {
        assert_eq!(messages(&good, None), Vec::<String>::new());
        assert_eq!(messages(&good, Some(&good)), Vec::<String>::new(), "unchanged");
    }
}

#[test]
fn data_is_kept_where_that_can_be_taken_up_again() {
    for policies in [
        &[("deletionPolicy", "Delete")][..],
        &[
            ("deletionPolicy", "Delete"),
            ("postgres/deletionPolicy", "Retain"),
        ],
        &[("kafka/deletionPolicy", "Delete")],
        &[
            ("postgres/deletionPolicy", "Delete"),
            ("kafka/deletionPolicy", "Delete"),
            ("elasticsearch/deletionPolicy", "Delete"),
        ],
    ] {
        let policies: Vec<_> = policies
            .iter()
            .map(|(place, policy)| (*place, json!(policy)))
            .collect();
        assert_eq!(
            messages(&stored(&minimal(), &policies), None),
            Vec::<String>::new()
        );
    }
}

#[allow(clippy::too_many_lines, reason = "a table")]
#[test]
fn bad_specs_are_refused_with_a_message_that_says_what_to_do() {
    let sasl = r#"{"mechanism":"PLAIN","username":"u","passwordSecretRef":{"name":"s","key":"k"},"allowUnencrypted":false}"#;
    let table = [
        Refused(
            &[("image/registry", r#""https://ghcr.io/example""#)],
            "without a scheme",
        ),
        Refused(
            &[("image/registry", r#""ghcr.io/example/""#)],
            "without a '/' at the end",
        ),
        Refused(&[("image/registry", r#""GHCR.io/example""#)], "in lower case"),
        Refused(&[("image/tag", r#""1.0 beta""#)], "image.tag is letters"),
        Refused(&[("image/tag", r#"".hidden""#)], "starting with a letter, digit"),
        Refused(&[("image/tag", r#""latest""#)], "set imagePullPolicy: Always"),
        Refused(
            &[("postgres/deletionPolicy", r#""Delete""#)],
            "postgres.deletionPolicy: Delete needs Delete for kafka and elasticsearch too",
        ),
        Refused(
            &[
                ("deletionPolicy", r#""Delete""#),
                ("kafka/deletionPolicy", r#""Retain""#),
            ],
            "Keep the tables, or remove the topics and the index as well",
        ),
        Refused(
            &[
                ("postgres/deletionPolicy", r#""Delete""#),
                ("elasticsearch/deletionPolicy", r#""Delete""#),
            ],
            "what is kept of the old orders would be taken for the new ones",
        ),
        Refused(
            &[("catalogue", r#"{"seed":{"stock":5}}"#)],
            "set catalogue.seed.skus",
        ),
        Refused(
            &[
                ("catalogue", r#"{"seed":{"skus":5}}"#),
                ("postgres/migrations", r#""Manual""#),
            ],
            "run `api migrate --seed-skus N --seed-stock M` yourself",
        ),
        Refused(
            &[("monitoring", r#"{"freshnessObjective":"1 second"}"#)],
            "monitoring.freshnessObjective is a duration such as 500ms",
        ),
        Refused(
            &[("monitoring", r#"{"freshnessObjective":"10ms"}"#)],
            "between 50ms and 1h",
        ),
        Refused(
            &[("postgres/outboxRetention", r#""7d""#)],
            "postgres.outboxRetention is a duration",
        ),
        Refused(
            &[("postgres/outboxRetention", r#""30m""#)],
            "between 1h and 2160h",
        ),
        Refused(
            &[("postgres/outboxRetention", r#""2161h""#)],
            "between 1h and 2160h",
        ),
        Refused(
            &[("kafka/bootstrapServers", r#""kafka""#)],
            "kafka.bootstrapServers is host:port",
        ),
        Refused(&[("kafka/bootstrapServers", r#""a:9092, b:9092""#)], "no spaces"),
        Refused(
            &[("kafka/bootstrapServers", r#""kafka:9092,""#)],
            "separated by commas",
        ),
        Refused(
            &[("kafka/topics/prefix", r#""my shop""#)],
            "kafka.topics.prefix is letters",
        ),
        Refused(
            &[("kafka/topics/config", r#"{"cleanup.policy":"compact"}"#)],
            "compaction would drop events",
        ),
        Refused(
            &[("kafka/topics/config", r#"{"min.insync.replicas":"2"}"#)],
            "raise kafka.topics.replicationFactor",
        ),
        Refused(
            &[("kafka/topics/config", r#"{"min.insync.replicas":"two"}"#)],
            "must be a number from 1",
        ),
        Refused(
            &[("kafka/topics/config", r#"{"partitions":"3"}"#)],
            "use kafka.topics.partitions",
        ),
        Refused(
            &[("elasticsearch/url", r#""search:9200""#)],
            "elasticsearch.url is http:// or https://",
        ),
        Refused(
            &[("elasticsearch/url", r#""ftp://search:9200""#)],
            "elasticsearch.url is http:// or https://",
        ),
        Refused(
            &[("elasticsearch/url", r#""http://elastic:secret@search:9200""#)],
            "put them into elasticsearch.auth",
        ),
        Refused(
            &[(
                "elasticsearch/tls",
                r#"{"caSecretRef":{"name":"ca","key":"ca.crt"}}"#,
            )],
            "change elasticsearch.url to https://",
        ),
        Refused(
            &[("elasticsearch/index/name", r#""Orders""#)],
            "elasticsearch.index.name is a-z",
        ),
        Refused(
            &[("elasticsearch/index/name", r#""-orders""#)],
            "starting with a letter or digit",
        ),
        Refused(
            &[("elasticsearch/index/refreshInterval", r#""1 second""#)],
            "refreshInterval is -1 or a number",
        ),
        Refused(
            &[("elasticsearch/index/refreshInterval", r#""0s""#)],
            "refreshInterval is -1 or a number",
        ),
        Refused(&[("redis/host", r#""cache""#)], "set one, and remove the other"),
        Refused(&[("redis/secretRef", "null")], "exactly one of secretRef"),
        Refused(
            &[("redis/secretRef", "null"), ("redis/host", r#""cache:6380""#)],
            "put the port into redis.port",
        ),
        Refused(
            &[("redis/port", "6380")],
            "put the port into the URI of redis.secretRef",
        ),
        Refused(
            &[("redis/auth", r#"{"passwordSecretRef":{"name":"s","key":"k"}}"#)],
            "put user name and password into the URI of redis.secretRef",
        ),
        Refused(&[("redis/keyPrefix", r#""shop*""#)], "redis.keyPrefix is letters"),
        Refused(
            &[("redis/idempotencyTtl", r#""1 day""#)],
            "use the units ms, s, m and h",
        ),
        Refused(&[("redis/idempotencyTtl", r#""10s""#)], "between 1m and 720h"),
        Refused(&[("redis/idempotencyTtl", r#""1000h""#)], "between 1m and 720h"),
        Refused(&[("redis/searchCacheTtl", r#""2h""#)], "between 1s and 1h"),
        Refused(
            &[("redis/searchCacheTtl", r#""""#)],
            "redis.searchCacheTtl is a duration",
        ),
        Refused(&[("redis/searchStaleIfError", r#""25h""#)], "at most 24h"),
        Refused(
            &[("redis/searchStaleIfError", r#""never""#)],
            "redis.searchStaleIfError is a duration",
        ),
        Refused(&[("relay/pollInterval", r#""1ms""#)], "between 10ms and 1m"),
        Refused(
            &[(
                "monitoring",
                r#"{"tracing":{"otlpEndpoint":"collector:4317","samplingRatio":1}}"#,
            )],
            "for example http://collector.observability:4318",
        ),
        Refused(
            &[("relay/pollInterval", r#""fast""#)],
            "relay.pollInterval is a duration",
        ),
        Refused(&[("indexer/bulk/maxDelay", r#""1m""#)], "between 1ms and 10s"),
        Refused(&[("indexer/replicas", "7")], "raise kafka.topics.partitions"),
        Refused(
            &[("api/ingress", r#"{"tlsSecretName":"tls"}"#)],
            "set api.ingress.host too",
        ),
        Refused(
            &[("api/ingress", r#"{"host":"https://orders.example.com"}"#)],
            "without scheme, port or path",
        ),
        Refused(
            &[("api/ingress", r#"{"host":"Orders.example.com"}"#)],
            "in lower case",
        ),
        Refused(&[("api/auth", r#"{"mode":"JWT"}"#)], "add api.auth.jwt"),
        Refused(
            &[(
                "api/auth",
                r#"{"jwt":{"algorithms":["HS256"],"secretRef":{"name":"s","key":"k"}}}"#,
            )],
            "set api.auth.mode: JWT",
        ),
        Refused(
            &[("api/auth", r#"{"mode":"JWT","jwt":{"algorithms":["HS256"]}}"#)],
            "from exactly one place",
        ),
        Refused(
            &[(
                "api/auth",
                r#"{"mode":"JWT","jwt":{"algorithms":["RS256"],"jwksUrl":"https://issuer/jwks","jwksSecretRef":{"name":"s","key":"k"}}}"#,
            )],
            "from exactly one place",
        ),
        Refused(
            &[(
                "api/auth",
                r#"{"mode":"JWT","jwt":{"algorithms":["RS256"],"secretRef":{"name":"s","key":"k"}}}"#,
            )],
            "set algorithms: [HS256]",
        ),
        Refused(
            &[(
                "api/auth",
                r#"{"mode":"JWT","jwt":{"algorithms":["HS256"],"jwksUrl":"https://issuer/jwks"}}"#,
            )],
            "take the secret from secretRef",
        ),
        Refused(
            &[(
                "api/auth",
                r#"{"mode":"JWT","jwt":{"algorithms":["RS256"],"jwksUrl":"http://issuer/jwks","caSecretRef":{"name":"s","key":"k"}}}"#,
            )],
            "change api.auth.jwt.jwksUrl to https://",
        ),
        Refused(
            &[(
                "api/auth",
                r#"{"mode":"JWT","jwt":{"algorithms":["RS256"],"jwksUrl":"issuer/jwks"}}"#,
            )],
            "api.auth.jwt.jwksUrl is http:// or https://",
        ),
        Refused(
            &[(
                "api/auth",
                r#"{"mode":"JWT","jwt":{"algorithms":["RS256"],"jwksUrl":"https://u:p@issuer/jwks"}}"#,
            )],
            "must not hold credentials",
        ),
        Refused(
            &[("api/rateLimit", r#"{"requests":5,"window":"100ms"}"#)],
            "api.rateLimit.window is a duration",
        ),
        Refused(
            &[("api/rateLimit", r#"{"requests":5,"window":"0s"}"#)],
            "between 1s and 24h",
        ),
        Refused(
            &[("api/cors", r#"{"allowedOrigins":["https://shop.example.com/"]}"#)],
            "nothing after it",
        ),
        Refused(
            &[(
                "api/cors",
                r#"{"allowedOrigins":["https://shop.example.com:443"]}"#,
            )],
            "not the scheme's own",
        ),
        Refused(
            &[(
                "api/cors",
                r#"{"allowedOrigins":["*","https://shop.example.com"]}"#,
            )],
            "remove * or the others",
        ),
        Refused(
            &[("api/trustedProxies", r#"["proxy.example.com"]"#)],
            "api.trustedProxies are addresses",
        ),
        Refused(
            &[(
                "api/resources",
                r#"{"requests":{"memory":"2Gi"},"limits":{"memory":"1Gi"}}"#,
            )],
            "lower the request or raise the limit",
        ),
        Refused(
            &[(
                "relay/resources",
                r#"{"requests":{"cpu":2},"limits":{"cpu":"500m"}}"#,
            )],
            "resources.requests can't be above",
        ),
        Refused(
            &[("api/autoscaling", r#"{"maxReplicas":5}"#)],
            "set api.resources.requests.cpu",
        ),
        Refused(
            &[
                ("api/autoscaling", r#"{"minReplicas":6,"maxReplicas":5}"#),
                ("api/resources", r#"{"requests":{"cpu":1}}"#),
            ],
            "api.autoscaling.minReplicas is above",
        ),
        Refused(
            &[("indexer/autoscaling", r#"{"minReplicas":6,"maxReplicas":5}"#)],
            "indexer.autoscaling.minReplicas is above",
        ),
        Refused(
            &[("indexer/autoscaling", r#"{"maxReplicas":7}"#)],
            "lower indexer.autoscaling.maxReplicas",
        ),
        Refused(
            &[("monitoring", r#"{"podMonitor":{"interval":"often"}}"#)],
            "monitoring.podMonitor.interval is a number",
        ),
        Refused(
            &[(
                "relay/podTemplate",
                r#"{"metadata":{"labels":{"app.kubernetes.io/name":"x"}}}"#,
            )],
            "are how the pods are found: choose other names",
        ),
        Refused(
            &[(
                "indexer/podTemplate",
                r#"{"metadata":{"annotations":{"commerce.lab/secrets":"x"}}}"#,
            )],
            "are the operator's own: choose other names",
        ),
        Refused(
            &[(
                "api/gateway",
                r#"{"parentRefs":[{"name":"public"}],"hostnames":["https://orders.example.com"]}"#,
            )],
            "api.gateway.hostnames are host names",
        ),
        Refused(
            &[("networkPolicy", r#"{"metricsFrom":[{}]}"#)],
            "set podLabels, namespaceLabels or both",
        ),
    ];
    let mut wrong = Vec::new();
    let mut check = |made: &[(&'static str, Value)], expected: &str| {
        let found = messages(&stored(&minimal(), made), None);
        if found.len() != 1 || !found[0].contains(expected) {
            wrong.push(format!(
                "{made:?}\n  expected once: {expected}\n  found: {found:?}"
            ));
        }
    };
    for Refused(made, expected) in &table {
        check(&changes(made), expected);
    }
    check(
        &[("kafka/sasl", serde_json::from_str(sasl).unwrap())],
        "set kafka.sasl.allowUnencrypted: true",
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_that_children_can_not_have_are_refused() {
    for name in ["1shop", "shop.eu", "shop-", &"x".repeat(41)] {
        let mut pipeline = stored(&minimal(), &[]);
        pipeline["metadata"]["name"] = json!(name);
        let found = messages(&pipeline, None);
        assert!(
            found
                .iter()
                .any(|message| message.contains("use at most 40 characters")),
            "{name}: {found:?}"
        );
    }
}

#[test]
fn what_can_not_be_changed_later_is_refused_with_a_way_out() {
    let table = [
        Refused(
            &[("kafka/topics/prefix", r#""other.""#)],
            "kafka.topics.prefix can't be changed",
        ),
        Refused(
            &[("kafka/topics/partitions", "6")],
            "kafka.topics.partitions can't be lowered",
        ),
        Refused(
            &[("kafka/topics/replicationFactor", "2")],
            "kafka-reassign-partitions.sh",
        ),
        Refused(
            &[("elasticsearch/index/name", r#""orders2""#)],
            "elasticsearch.index.name can't be changed",
        ),
        Refused(
            &[("elasticsearch/index/shards", "5")],
            "elasticsearch.index.shards is fixed",
        ),
        Refused(
            &[("redis/keyPrefix", r#""other:""#)],
            "redis.keyPrefix can't be changed",
        ),
        Refused(&[("redis/keyPrefix", "null")], "redis.keyPrefix can't be changed"),
    ];
    let old = stored(&full(), &[]);
    for Refused(made, expected) in table {
        let found = messages(&stored(&full(), &changes(made)), Some(&old));
        assert!(
            found.len() == 1 && found[0].contains(expected),
            "{made:?}: expected {expected}, found {found:?}"
        );
    }
}

#[test]
fn what_can_be_changed_later_is_accepted() {
    let old = stored(&full(), &[]);
    let new = stored(
        &full(),
        &changes(&[
            ("image/tag", r#""v3""#),
            ("kafka/topics/partitions", "24"),
            ("kafka/topics/config", r#"{"retention.ms":"1000"}"#),
            ("elasticsearch/index/replicas", "0"),
            ("api/ingress", "null"),
            ("postgres/secretRef", r#"{"name":"other","key":"uri"}"#),
            ("suspend", "true"),
        ]),
    );
    assert_eq!(messages(&new, Some(&old)), Vec::<String>::new());
}

#[test]
fn replicas_that_are_not_looked_at_do_not_matter() {
    let changes = changes(&[
        ("indexer/replicas", "50"),
        ("indexer/autoscaling", r#"{"maxReplicas":6}"#),
    ]);
    assert_eq!(
        messages(&stored(&minimal(), &changes), None),
        Vec::<String>::new()
    );
}

#[test]
fn sasl_without_tls_is_accepted_where_it_is_asked_for() {
    let sasl = json!({
        "mechanism": "PLAIN", "username": "u", "passwordSecretRef": { "name": "s", "key": "k" }, "allowUnencrypted": true,
    });
    assert_eq!(
        messages(&stored(&minimal(), &[("kafka/sasl", sasl)]), None),
        Vec::<String>::new()
    );
}
