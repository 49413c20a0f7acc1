//! Deleting a pipeline removes all that it owns in the cluster; `deletionPolicy` decides on what is in the stores.

use std::time::Duration;

use anyhow::{Result, ensure};
use commerce_e2e::{
    cluster::{OWNED, PIPELINES, PODS},
    eventually::eventually,
    orders::{Order, new_user},
    pipeline::name,
    scenario::{Outcome, scenario},
    tenant::Tenant,
};
use serde_json::{Value, json};

const GONE: Duration = Duration::from_mins(1);
/// A store that does not answer is told, and given up.
const AWAY: Duration = Duration::from_secs(30);

#[tokio::test]
async fn retain_keeps_everything_for_a_successor_and_delete_removes_it() -> Outcome {
    scenario(async |s| {
        let mut tenant = Tenant::prepare(s, "deletion").await?;
        tenant.spec["deletionPolicy"] = json!("Retain");
        tenant.apply().await?;
        tenant.pipeline.ready().await?;
        let user = new_user();
        let orders = tenant.orders()?;
        let id = orders.place(&Order::of(&user)).await?;
        orders
            .finds(&user, std::slice::from_ref(&id), Duration::from_secs(5))
            .await?;
        let before = (
            tenant.topics().await?,
            tenant.indices_and_template().await?,
            tenant.tables().await?,
        );
        assert_eq!(before.0.len(), 4, "topics: {:?}", before.0);
        assert_eq!(
            (before.1.0.len(), before.1.1),
            (1, true),
            "an index and its template"
        );
        ensure!(
            before.2.iter().any(|table| table == "orders"),
            "tables: {:?}",
            before.2
        );

        delete(&tenant).await?;
        let after = (
            tenant.topics().await?,
            tenant.indices_and_template().await?,
            tenant.tables().await?,
        );
        assert_eq!(after, before, "Retain keeps topics, index, template and tables");

        tenant.spec["deletionPolicy"] = json!("Delete");
        tenant.apply().await?;
        tenant.pipeline.ready().await?;
        let found = orders
            .finds(&user, std::slice::from_ref(&id), Duration::from_secs(5))
            .await?;
        assert_eq!(
            found[&id]["userId"], user,
            "the successor goes on with what was kept"
        );
        let another = orders.place(&Order::of(&user)).await?;
        orders
            .finds(&user, &[id, another], Duration::from_secs(5))
            .await?;

        delete(&tenant).await?;
        assert_eq!(tenant.indices_and_template().await?, (vec![], false));
        assert_eq!(tenant.tables().await?, Vec::<String>::new());
        topics_are_gone(&tenant).await
    })
    .await
}

/// The index is somewhere else from the moment on that the pipeline goes, so it can't be removed until it is found again.
#[tokio::test]
async fn each_store_has_its_policy_and_the_status_tells_which_one_waits() -> Outcome {
    scenario(async |s| {
        let mut tenant = Tenant::prepare(s, "policies").await?;
        tenant.spec["deletionPolicy"] = json!("Delete");
        tenant.spec["postgres"]["deletionPolicy"] = json!("Retain");
        tenant.apply().await?;
        tenant.pipeline.ready().await?;
        let tables = tenant.tables().await?;
        let pipeline = &tenant.pipeline;
        let url = tenant.spec["elasticsearch"]["url"].clone();
        let search_at = async |url: &Value| {
            let change = json!({"spec": {"elasticsearch": {"url": url}}});
            let (namespace, name) = (&pipeline.namespace, &pipeline.name);
            pipeline.cluster.change(PIPELINES, namespace, name, &change).await
        };
        search_at(&json!(format!("http://nowhere.{}.svc:9200", pipeline.namespace))).await?;
        pipeline.delete().await?;
        eventually("the status tells of each store", GONE, async || {
            let told = pipeline.object().await?["status"]["deletion"].clone();
            let state = |store: &str| {
                let all = told.as_array().into_iter().flatten();
                let found = all.clone().find(|told| told["store"] == store);
                found
                    .and_then(|told| told["state"].as_str())
                    .unwrap_or_default()
                    .to_owned()
            };
            let states = (state("PostgreSQL"), state("Kafka"), state("Elasticsearch"));
            let (kept, gone, waits) = (&states.0[..], &states.1[..], &states.2[..]);
            ensure!(
                (kept, gone, waits) == ("Retained", "Removed", "Waiting"),
                "it is {told}"
            );
            Ok(())
        })
        .await?;
        let condition = pipeline.condition("Ready").await?;
        ensure!(
            condition.message.contains("the index in Elasticsearch")
                && condition.message.contains("abandon-external"),
            "Ready says {}",
            condition.message
        );

        search_at(&url).await?;
        pipeline
            .cluster
            .gone(PIPELINES, &pipeline.namespace, &pipeline.name, GONE)
            .await?;
        assert_eq!(tenant.indices_and_template().await?, (vec![], false));
        assert_eq!(tenant.tables().await?, tables, "PostgreSQL is kept");
        topics_are_gone(&tenant).await
    })
    .await
}

#[tokio::test]
async fn a_store_that_is_gone_for_good_can_be_abandoned() -> Outcome {
    scenario(async |s| {
        let mut tenant = Tenant::prepare(s, "abandoned").await?;
        tenant.spec["deletionPolicy"] = json!("Delete");
        tenant.spec["kafka"]["bootstrapServers"] = json!("kafka:9092");
        tenant.apply().await?;
        let pipeline = &tenant.pipeline;
        pipeline.reaches("StoresReachable", "False", AWAY).await?;
        pipeline.delete().await?;
        eventually("it waits for Kafka", AWAY, async || {
            let ready = pipeline.condition("Ready").await?;
            ensure!(
                ready.message.contains("Kafka") && ready.message.contains("abandon-external"),
                "{ready:?}"
            );
            Ok(())
        })
        .await?;
        let (namespace, name) = (&pipeline.namespace, &pipeline.name);
        let abandon = json!({"metadata": {"annotations": {"commerce.lab/abandon-external": "true"}}});
        s.cluster.change(PIPELINES, namespace, name, &abandon).await?;
        s.cluster.gone(PIPELINES, namespace, name, AWAY).await
    })
    .await
}

/// As where a store runs in the namespace that goes, and no Secret is needed to reach it.
#[tokio::test]
async fn a_namespace_can_be_deleted_while_a_store_is_away() -> Outcome {
    scenario(async |s| {
        let mut tenant = Tenant::prepare(s, "nowhere").await?;
        tenant.spec["deletionPolicy"] = json!("Delete");
        tenant.spec["kafka"]["bootstrapServers"] = json!("kafka:9092");
        tenant.apply().await?;
        tenant.pipeline.reaches("StoresReachable", "False", AWAY).await?;
        s.cluster
            .delete_namespace(&tenant.pipeline.namespace, Duration::from_mins(3))
            .await
    })
    .await
}

/// The Secrets go at the same time as the pipeline that needs them to clean up the stores.
#[tokio::test]
async fn a_namespace_with_a_live_pipeline_can_be_deleted() -> Outcome {
    scenario(async |s| {
        let mut tenant = Tenant::prepare(s, "namespace").await?;
        tenant.spec["deletionPolicy"] = json!("Delete");
        tenant.apply().await?;
        tenant.pipeline.ready().await?;
        s.cluster
            .delete_namespace(&tenant.pipeline.namespace, Duration::from_secs(90))
            .await
    })
    .await
}

/// Deletes the pipeline, and waits until it is gone with all that it owned.
async fn delete(tenant: &Tenant) -> Result<()> {
    let pipeline = &tenant.pipeline;
    let owned = pipeline.owned().await?;
    ensure!(
        owned.len() >= 6,
        "at least three Deployments, a Service, a Job and an Ingress: {}",
        owned.len()
    );
    pipeline.delete().await?;
    pipeline
        .cluster
        .gone(PIPELINES, &pipeline.namespace, &pipeline.name, GONE)
        .await?;
    eventually("what it owned is gone, and its pods", GONE, async || {
        let mut left = Vec::new();
        for kind in OWNED.into_iter().chain([PODS]) {
            for object in pipeline.cluster.list(kind, &pipeline.namespace, "").await? {
                // What Kubernetes itself puts into every namespace.
                if !matches!(name(&object), "default" | "kube-root-ca.crt") {
                    left.push(format!("{} of the {}", name(&object), kind.plural));
                }
            }
        }
        ensure!(left.is_empty(), "there are {}", left.join(", "));
        Ok(())
    })
    .await
}

/// Kafka answers before the last broker has forgotten a topic.
async fn topics_are_gone(tenant: &Tenant) -> Result<()> {
    eventually("the topics are gone", Duration::from_secs(10), async || {
        let left = tenant.topics().await?;
        ensure!(left.is_empty(), "there are {left:?}");
        Ok(())
    })
    .await
}
