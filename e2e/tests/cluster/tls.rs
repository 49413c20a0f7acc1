//! A pipeline whose stores speak TLS and nothing else, with Secrets as CloudNativePG, Strimzi, ECK and Bitnami's chart write them:
//! SCRAM for Kafka and a client certificate for Redis. Network policies are on, for clusters whose network enforces them: kind's own
//! does, the one that e2e/cluster builds does not.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use commerce_e2e::{
    cluster::{PIPELINES, SECRETS},
    eventually::eventually,
    orders::{Order, Orders, new_user},
    pipeline::{Pipeline, name},
    scenario::{Outcome, Scenario, scenario},
    stores,
    tenant::remove_namespace,
};
use serde_json::json;
use uuid::Uuid;

const SEARCHABLE_WITHIN: Duration = Duration::from_secs(30);

/// The Secrets with the authorities of PostgreSQL, Kafka, Elasticsearch and Redis, each with one of its own.
const AUTHORITIES: [&str; 4] = [
    "stores-postgres-ca",
    "stores-kafka-cluster-ca-cert",
    "stores-elasticsearch-es-http-certs-public",
    "stores-redis-crt",
];

const NOTICED: Duration = Duration::from_mins(1);
/// Two Deployments, one after the other, when Redis has started anew.
const ROLLED_OUT: Duration = Duration::from_mins(2);

#[tokio::test]
async fn every_store_is_reached_over_tls_alone() -> Outcome {
    scenario(async |s| {
        let host = format!("tls-{}", &Uuid::new_v4().simple().to_string()[..6]);
        let namespace = format!("e2e-{host}");
        let host = format!("{host}.localhost");
        s.cluster.create_namespace(&namespace).await?;
        s.involve(&namespace);
        let (cluster, removed) = (s.cluster.clone(), namespace.clone());
        s.afterwards(format!("removing {namespace}"), async move {
            remove_namespace(&cluster, &removed).await
        });
        install(s, &namespace, &host).await?;
        let pipeline = Pipeline::new(&s.cluster, &namespace, "shop");
        let orders = Orders::through_ingress(&s.cluster, Some(&host))?;
        pipeline.ready().await?;
        takes_orders(&pipeline, &orders).await?;

        distrusts_strangers(&pipeline, &orders)
            .await
            .context("while the pipeline trusted the wrong authorities")?;
        follows_a_new_authority(&pipeline)
            .await
            .context("while the authority of Redis was replaced")?;
        takes_orders(&pipeline, &orders).await
    })
    .await
}

/// Stores and a pipeline on them, as the chart's example tells it.
async fn install(s: &Scenario, namespace: &str, host: &str) -> Result<()> {
    let environment = &s.cluster.environment;
    // There are two of everything now, on the same cores.
    let small = json!({"resources": {"requests": {"cpu": "20m"}}});
    let values = json!({
        "tls": {"enabled": true},
        "postgres": small, "kafka": small, "elasticsearch": small, "redis": small,
    });
    let chart = environment.chart("dev-stores");
    let install = [
        "install",
        "stores",
        &chart,
        "-n",
        namespace,
        "-f",
        "-",
        "--wait",
        "--timeout=3m",
    ];
    environment
        .run_with_input("helm", &install, &values.to_string())
        .await?;

    let component = json!({"replicas": 1, "resources": {"requests": {"cpu": "20m"}}});
    let mut api = component.clone();
    api["ingress"] = json!({"host": host});
    let values = json!({"spec": {
        "image": s.shop.object().await?["spec"]["image"],
        "networkPolicy": {"enabled": true},
        "api": api, "relay": component, "indexer": component,
    }});
    let chart = environment.chart("commerce-pipeline");
    let example = environment.chart("commerce-pipeline/examples/dev-stores-tls.yaml");
    let install = [
        "install", "shop", &chart, "-n", namespace, "-f", &example, "-f", "-",
    ];
    environment
        .run_with_input("helm", &install, &values.to_string())
        .await
        .map(drop)
}

/// An order takes its way through PostgreSQL, Kafka and Elasticsearch, all services reach all their stores, Redis too, and nothing
/// shows a secret.
async fn takes_orders(pipeline: &Pipeline, orders: &Orders) -> Result<()> {
    let order = Order::of(&new_user());
    let id = orders.place(&order).await?;
    orders.finds(&order.user, &[id], SEARCHABLE_WITHIN).await?;
    for pod in pipeline.pods("").await? {
        eventually("a pod reaches its stores", NOTICED, async || {
            let path = format!(
                "/api/v1/namespaces/{}/pods/{}:9090/proxy/readyz",
                pipeline.namespace,
                name(&pod)
            );
            let answer = pipeline.cluster.read(&path).await?.unwrap_or_default();
            let checks = answer["checks"].as_object().context("there are no checks")?;
            let failing = checks.values().any(|check| check["ready"] != true);
            ensure!(
                answer["ready"] == true && !failing,
                "{} says {answer}",
                name(&pod)
            );
            Ok(())
        })
        .await?;
    }
    keeps_quiet(pipeline).await
}

async fn keeps_quiet(pipeline: &Pipeline) -> Result<()> {
    let mut secrets = Vec::new();
    for (name, key) in [
        ("stores-postgres", "password"),
        ("stores-kafka-user", "password"),
        ("stores-elasticsearch", "elastic"),
        ("stores-redis", "redis-password"),
        ("stores-redis-crt", "tls.key"),
    ] {
        let value = stores::secret_of(&pipeline.cluster, &pipeline.namespace, name, key).await?;
        // Of a key, the first line that is its own.
        let line = value.lines().find(|line| !line.starts_with("-----"));
        secrets.push(
            line.with_context(|| format!("{name} has an empty {key}"))?
                .to_owned(),
        );
    }
    pipeline.keeps_quiet_about(&secrets).await
}

/// Authorities that did not sign the stores' certificates: the condition says of which stores, and what to change. The pods go on
/// as they are.
async fn distrusts_strangers(pipeline: &Pipeline, orders: &Orders) -> Result<()> {
    let before = pipeline.pod_uids("").await?;
    let trust = async |of_postgres: &str, of_kafka: &str, of_elasticsearch: &str, of_redis: &str| {
        let tls = |authority: &str| json!({"tls": {"caSecretRef": {"name": authority}}});
        let change = json!({"spec": {
            "postgres": tls(of_postgres), "kafka": tls(of_kafka),
            "elasticsearch": tls(of_elasticsearch), "redis": tls(of_redis),
        }});
        let (cluster, namespace) = (&pipeline.cluster, &pipeline.namespace);
        let changed = cluster.change(PIPELINES, namespace, &pipeline.name, &change);
        changed.await.map(drop)
    };
    let [postgres, kafka, elasticsearch, redis] = AUTHORITIES;
    trust(redis, postgres, kafka, elasticsearch).await?;
    let condition = pipeline.reaches("StoresReachable", "False", NOTICED).await?;
    for (store, field) in [
        ("PostgreSQL (postgres.secretRef)", "postgres"),
        ("Kafka (kafka.bootstrapServers)", "kafka"),
        ("Elasticsearch (elasticsearch.url)", "elasticsearch"),
        ("Redis (redis.host)", "redis"),
    ] {
        let advice = format!("give the authority that signed it in {field}.tls.caSecretRef");
        ensure!(
            condition.message.contains(store) && condition.message.contains(&advice),
            "it says of {store} not: {advice}: {condition:?}"
        );
    }
    takes_orders(pipeline, orders).await?;
    ensure!(pipeline.pod_uids("").await? == before, "pods were replaced");
    trust(postgres, kafka, elasticsearch, redis).await?;
    pipeline.ready().await?;
    ensure!(
        pipeline.pod_uids("").await? == before,
        "pods were replaced, although they trust whom they trusted"
    );
    Ok(())
}

/// Redis gets another authority, certificate and key: the pods that use it are replaced, and no others.
async fn follows_a_new_authority(pipeline: &Pipeline) -> Result<()> {
    let (cluster, namespace) = (&pipeline.cluster, &pipeline.namespace);
    let relay = pipeline.pod_uids("relay").await?;
    let users = async || -> Result<BTreeSet<String>> {
        let (api, indexer) = (
            pipeline.pod_uids("api").await?,
            pipeline.pod_uids("indexer").await?,
        );
        Ok(api.union(&indexer).cloned().collect())
    };
    let before = users().await?;
    cluster.delete(SECRETS, namespace, "stores-redis-crt").await?;
    let chart = cluster.environment.chart("dev-stores");
    let upgrade = [
        "upgrade",
        "stores",
        &chart,
        "-n",
        namespace,
        "--reuse-values",
        "--wait",
        "--timeout=2m",
    ];
    cluster.environment.helm(&upgrade).await?;
    eventually("the pods that use Redis are others", ROLLED_OUT, async || {
        let now = users().await?;
        ensure!(now.is_disjoint(&before), "{now:?} has some of {before:?}");
        Ok(())
    })
    .await?;
    pipeline.ready().await?;
    let now = pipeline.pod_uids("relay").await?;
    ensure!(
        now == relay,
        "the relay does not use Redis, and its pods were replaced"
    );
    Ok(())
}
