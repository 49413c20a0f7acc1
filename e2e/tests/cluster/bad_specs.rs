//! Mistakes in a spec are refused by the API server itself, with a message that names the field.

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use commerce_e2e::{
    cluster::PIPELINES,
    scenario::{Outcome, scenario},
    tenant::Tenant,
};
use serde_json::{Value, json};

/// What is set where in a good spec (`null` removes), and what the refusal must contain.
type Case = (&'static str, Value, &'static str);

#[rustfmt::skip] // a table: one line, one case
fn new_specs() -> Vec<Case> {
    let sasl = |mechanism| json!({"mechanism": mechanism, "username": "u", "passwordSecretRef": {"name": "s", "key": "password"}});
    let memory = |request, limit| json!({"requests": {"memory": request}, "limits": {"memory": limit}});
    vec![
        ("/image", Value::Null, "spec.image: Required value"),
        ("/image/tag", Value::Null, "spec.image.tag: Required value"),
        ("/image/tag", json!("latest"), "image.tag"),
        ("/image/tag", json!("a b"), "image.tag is letters, digits"),
        ("/image/registry", json!("https://ghcr.io/example"), "image.registry is a registry and path without a scheme"),
        ("/image/registry", json!("ghcr.io/example/"), "image.registry"),
        ("/imagePullPolicy", json!("Sometimes"), "spec.imagePullPolicy: Unsupported value: \"Sometimes\""),
        ("/suspend", json!("yes"), "spec.suspend"),
        ("/deletionPolicy", json!("Keep"), "spec.deletionPolicy: Unsupported value: \"Keep\""),
        ("/catalogue/seed/skus", json!(0), "spec.catalogue.seed.skus"),
        ("/catalogue/seed/skus", Value::Null, "catalogue.seed.stock is the stock of each seeded SKU"),
        ("/catalogue/seed/stock", json!(-1), "spec.catalogue.seed.stock"),
        ("/postgres", Value::Null, "spec.postgres: Required value"),
        ("/postgres/secretRef", Value::Null, "spec.postgres.secretRef: Required value"),
        ("/postgres/secretRef/name", json!("Not_A_Name"), "spec.postgres.secretRef.name"),
        ("/postgres/deletionPolicy", json!("Delete"), "postgres.deletionPolicy: Delete needs Delete for kafka and elasticsearch too"),
        ("/kafka/deletionPolicy", json!("Keep"), "spec.kafka.deletionPolicy: Unsupported value: \"Keep\""),
        ("/postgres/poolSize", json!(0), "spec.postgres.poolSize"),
        ("/postgres/poolSize", json!("ten"), "spec.postgres.poolSize"),
        ("/postgres/migrations", json!("Manual"), "catalogue.seed is written by the migration Job"),
        ("/kafka/bootstrapServers", json!("kafka"), "kafka.bootstrapServers is host:port"),
        ("/kafka/bootstrapServers", json!("a:9092, b:9092"), "kafka.bootstrapServers is host:port"),
        ("/kafka/sasl", sasl("PLAIN"), "kafka.sasl without kafka.tls"),
        ("/kafka/sasl", sasl("GSSAPI"), "spec.kafka.sasl.mechanism: Unsupported value: \"GSSAPI\""),
        ("/kafka/topics/prefix", json!("shop/"), "kafka.topics.prefix is letters"),
        ("/kafka/topics/partitions", json!(0), "spec.kafka.topics.partitions"),
        ("/kafka/topics/config", json!({"cleanup.policy": "compact"}), "kafka.topics.config: cleanup.policy"),
        ("/kafka/topics/config", json!({"min.insync.replicas": "2"}), "kafka.topics.config: min.insync.replicas"),
        ("/elasticsearch/url", json!("http://u:p@search:9200"), "elasticsearch.url must not hold credentials"),
        ("/elasticsearch/url", json!("search:9200"), "elasticsearch.url is http:// or https://"),
        ("/elasticsearch/tls", json!({"caSecretRef": {"name": "ca", "key": "ca.crt"}}), "elasticsearch.tls only matters"),
        ("/elasticsearch/index/name", json!("Orders"), "elasticsearch.index.name is a-z"),
        ("/elasticsearch/index/refreshInterval", json!("fast"), "elasticsearch.index.refreshInterval"),
        ("/redis/host", json!("cache"), "redis needs exactly one of secretRef"),
        ("/redis/secretRef", Value::Null, "redis needs exactly one of secretRef"),
        ("/redis/port", json!(6380), "redis.port is the port of redis.host"),
        ("/redis/keyPrefix", json!("a b"), "redis.keyPrefix is letters"),
        ("/redis/idempotencyTtl", json!("a day"), "redis.idempotencyTtl is a duration"),
        ("/redis/searchCacheTtl", json!("2h"), "redis.searchCacheTtl must be between 1s and 1h"),
        ("/redis/searchStaleIfError", json!("25h"), "redis.searchStaleIfError must be at most 24h"),
        ("/api/replicas", json!(-1), "spec.api.replicas"),
        ("/api/ingress/host", json!("http://example.com/"), "api.ingress.host is a host name"),
        ("/api/ingress", json!({"tlsSecretName": "tls"}), "api.ingress.tlsSecretName"),
        ("/api/auth", json!({"mode": "Basic"}), "spec.api.auth.mode: Unsupported value: \"Basic\""),
        ("/api/auth", json!({"mode": "JWT"}), "add api.auth.jwt"),
        ("/api/auth", json!({"mode": "JWT", "jwt": {"algorithms": ["none"]}}), "spec.api.auth.jwt.algorithms"),
        ("/api/auth", json!({"mode": "JWT", "jwt": {"algorithms": ["HS256"], "jwksUrl": "https://issuer/jwks"}}), "take the secret from secretRef"),
        ("/api/rateLimit", json!({"requests": 0}), "spec.api.rateLimit.requests"),
        ("/api/rateLimit", json!({"requests": 5, "window": "100ms"}), "api.rateLimit.window is a duration"),
        ("/api/cors", json!({"allowedOrigins": ["shop.example.com"]}), "api.cors.allowedOrigins are"),
        ("/api/trustedProxies", json!(["proxy"]), "api.trustedProxies are addresses"),
        ("/api/resources", memory("2Gi", "1Gi"), "resources.requests can't be above resources.limits"),
        ("/relay/pollInterval", json!("1ms"), "relay.pollInterval must be between 10ms and 1m"),
        ("/relay/batchSize", json!(0), "spec.relay.batchSize"),
        ("/indexer/replicas", json!(3), "indexer.replicas is above kafka.topics.partitions"),
        ("/indexer/bulk", json!({"maxBytes": 200_000_000}), "spec.indexer.bulk.maxBytes"),
        ("/api/autoscaling", json!({"maxReplicas": 5}), "set api.resources.requests.cpu"),
        ("/api/autoscaling", json!({"minReplicas": 0, "maxReplicas": 5}), "spec.api.autoscaling.minReplicas"),
        ("/indexer/autoscaling", json!({"minReplicas": 2, "maxReplicas": 1}), "indexer.autoscaling.minReplicas is above"),
        ("/indexer/autoscaling", json!({"maxReplicas": 9}), "indexer.autoscaling.maxReplicas is above kafka.topics.partitions"),
        ("/monitoring", json!({"podMonitor": {"interval": "often"}}), "monitoring.podMonitor.interval is a number"),
        ("/monitoring", json!({"dashboards": {"labels": {"a": "b c"}}}), "spec.monitoring.dashboards.labels"),
        ("/priorityClassName", json!("High Priority"), "spec.priorityClassName"),
        ("/api/podTemplate", json!({"metadata": {"labels": {"app.kubernetes.io/name": "x"}}}), "are how the pods are found"),
        ("/relay/podTemplate", json!({"metadata": {"annotations": {"commerce.lab/secrets": "x"}}}), "are the operator's own"),
        ("/indexer/podTemplate", json!({"spec": "x"}), "spec.indexer.podTemplate.spec"),
        ("/api/gateway", json!({"parentRefs": []}), "spec.api.gateway.parentRefs"),
        ("/api/gateway", json!({"parentRefs": [{"name": "g"}], "hostnames": ["a:80"]}), "api.gateway.hostnames are host names"),
        ("/networkPolicy", json!({"metricsFrom": [{}]}), "an entry without labels would admit every pod"),
        ("/networkPolicy", json!({"egressPorts": [70_000]}), "spec.networkPolicy.egressPorts"),
        // A misspelt field, which only strict validation sees.
        ("/postgres/poolsize", json!(4), "unknown field \"spec.postgres.poolsize\""),
        ("/kafka/topic", json!({"partitions": 4}), "unknown field \"spec.kafka.topic\""),
        ("/apis", json!({}), "unknown field \"spec.apis\""),
    ]
}

/// What can't be changed while a pipeline lives.
fn changes() -> Vec<(Value, &'static str)> {
    vec![
        (
            json!({"kafka": {"topics": {"prefix": "other."}}}),
            "kafka.topics.prefix can't be changed",
        ),
        (
            json!({"kafka": {"topics": {"partitions": 1}}}),
            "kafka.topics.partitions can't be lowered",
        ),
        (
            json!({"kafka": {"topics": {"replicationFactor": 2}}}),
            "kafka.topics.replicationFactor is fixed",
        ),
        (
            json!({"elasticsearch": {"index": {"name": "other"}}}),
            "elasticsearch.index.name can't be changed",
        ),
        (
            json!({"elasticsearch": {"index": {"shards": 2}}}),
            "elasticsearch.index.shards is fixed",
        ),
        (
            json!({"redis": {"keyPrefix": "other:"}}),
            "redis.keyPrefix can't be changed",
        ),
    ]
}

#[tokio::test]
async fn a_bad_spec_is_refused_with_a_message_that_names_the_field() -> Outcome {
    scenario(async |s| {
        let mut tenant = Tenant::prepare(s, "refused").await?;
        // It is there to be changed, and has nothing to do.
        tenant.spec["suspend"] = json!(true);
        tenant.apply().await?;
        let (namespace, live) = (&tenant.pipeline.namespace, &tenant.pipeline.name);

        let mut good = tenant.manifest();
        good["metadata"]["name"] = json!("new");
        let refused = s.cluster.would_refuse(PIPELINES, namespace, &good).await?;
        ensure!(refused.is_none(), "the good spec is refused: {refused:?}");

        let mut wrong = String::new();
        for (place, value, expected) in new_specs() {
            let mut bad = good.clone();
            put(&mut bad["spec"], place, &value).with_context(|| format!("putting {value} at {place}"))?;
            let refused = s.cluster.would_refuse(PIPELINES, namespace, &bad).await?;
            judge(
                &mut wrong,
                &format!("{place} = {value}"),
                refused.map(|status| status.message),
                expected,
            );
        }
        let long_name = "a".repeat(41);
        for bad_name in ["1st", "a.b", &long_name] {
            good["metadata"]["name"] = json!(bad_name);
            let refused = s.cluster.would_refuse(PIPELINES, namespace, &good).await?;
            judge(
                &mut wrong,
                bad_name,
                refused.map(|status| status.message),
                "metadata.name is the start of the names",
            );
        }
        for (change, expected) in changes() {
            let spec = json!({"spec": change});
            let refused = s
                .cluster
                .would_refuse_change(PIPELINES, namespace, live, &spec)
                .await?;
            judge(
                &mut wrong,
                &format!("changing {change}"),
                refused.map(|status| status.message),
                expected,
            );
        }
        ensure!(wrong.is_empty(), "{wrong}");
        Ok(())
    })
    .await
}

fn judge(wrong: &mut String, case: &str, message: Option<String>, expected: &str) {
    match message {
        Some(message) if message.contains(expected) => {}
        Some(message) => drop(writeln!(
            wrong,
            "{case}: {expected:?} was expected, the message is: {message}"
        )),
        None => drop(writeln!(wrong, "{case}: it is accepted")),
    }
}

/// Sets a field, or removes it where the value is `null`.
fn put(spec: &mut Value, place: &str, value: &Value) -> Option<()> {
    let (parent, field) = place.rsplit_once('/')?;
    let parent = spec.pointer_mut(parent)?.as_object_mut()?;
    if value.is_null() {
        parent.remove(field)?;
    } else {
        parent.insert(field.to_owned(), value.clone());
    }
    Some(())
}
