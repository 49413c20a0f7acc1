//! What others change in Kafka and Elasticsearch is told field by field, and put right or left as the pipeline says.

use std::time::Duration;

use anyhow::{Result, ensure};
use commerce_e2e::{
    cluster::PIPELINES,
    eventually::eventually,
    scenario::{Outcome, Scenario, scenario},
    stores,
    tenant::Tenant,
};
use serde_json::json;

/// `make up` has the operator look every 30 s.
const NOTICED: Duration = Duration::from_mins(2);

#[tokio::test]
async fn a_changed_topic_and_a_changed_index_are_put_right() -> Outcome {
    scenario(async |s| {
        let mut second = Tenant::prepare(s, "drift").await?;
        second.spec["kafka"]["topics"]["config"] = json!({"retention.ms": "604800000"});
        second.spec["deletionPolicy"] = json!("Delete");
        second.apply().await?;
        second.pipeline.ready().await?;
        let topic = format!("{}.order.created", second.id);
        set_retention(s, &topic, "1000").await?;
        stores::change_index(
            &s.cluster,
            &second.id,
            &json!({"index": {"refresh_interval": "77s"}}),
        )
        .await?;
        eventually("the retention is put right", NOTICED, async || {
            let now = stores::kafka_topic_config(&s.cluster, &topic).await?;
            ensure!(now.contains("retention.ms=604800000"), "{now}");
            Ok(())
        })
        .await?;
        eventually("the refresh interval is put right", NOTICED, async || {
            let settings = format!("/{}/_settings/index.refresh_interval", second.id);
            let now = stores::elasticsearch(&s.cluster, &settings)
                .await?
                .unwrap_or_default();
            ensure!(now.to_string().contains(r#""refresh_interval":"30s""#), "{now}");
            Ok(())
        })
        .await?;
        let condition = second.pipeline.condition("DriftDetected").await?;
        ensure!(condition.status == "False", "{condition:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn under_observe_it_is_told_and_left() -> Outcome {
    scenario(async |s| {
        let mut second = Tenant::prepare(s, "observe").await?;
        second.spec["kafka"]["topics"]["config"] = json!({"retention.ms": "604800000"});
        second.spec["driftPolicy"] = json!("Observe");
        second.spec["deletionPolicy"] = json!("Delete");
        second.apply().await?;
        second.pipeline.ready().await?;
        let topic = format!("{}.order.created", second.id);
        set_retention(s, &topic, "1000").await?;
        let condition = second.pipeline.reaches("DriftDetected", "True", NOTICED).await?;
        let expected = format!("topic {topic}: retention.ms is 1000, spec says 604800000");
        ensure!(condition.message.contains(&expected), "{condition:?}");
        let now = stores::kafka_topic_config(&s.cluster, &topic).await?;
        ensure!(now.contains("retention.ms=1000"), "it was put right: {now}");
        let ready = second.pipeline.condition("Ready").await?;
        ensure!(ready.status == "True", "{ready:?}");

        // Asked to, the operator does it at once.
        let correct = json!({"spec": {"driftPolicy": "Correct"}});
        let (namespace, name) = (&second.pipeline.namespace, &second.pipeline.name);
        s.cluster.change(PIPELINES, namespace, name, &correct).await?;
        second
            .pipeline
            .reaches("DriftDetected", "False", Duration::from_secs(30))
            .await
            .map(drop)
    })
    .await
}

async fn set_retention(s: &Scenario, topic: &str, milliseconds: &str) -> Result<()> {
    let setting = format!("retention.ms={milliseconds}");
    let change = [
        "--alter",
        "--entity-type",
        "topics",
        "--entity-name",
        topic,
        "--add-config",
        &setting,
    ];
    stores::kafka_configs(&s.cluster, &change).await.map(drop)
}
