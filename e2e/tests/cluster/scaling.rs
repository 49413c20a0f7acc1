//! Indexers that do not keep up get another one.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use commerce_e2e::{
    eventually::eventually,
    scenario::{Outcome, scenario},
    stores,
    tenant::Tenant,
};
use serde_json::json;

/// Two looks, half a minute apart at first, until it is known how fast events move; that they wait has to last for 15 s; and the pod
/// has to start.
const HELPED: Duration = Duration::from_mins(3);
/// Far more than are indexed one by one in that time.
const EVENTS: i32 = 200_000;

#[tokio::test]
async fn indexers_that_are_behind_get_help() -> Outcome {
    scenario(async |s| {
        let mut second = Tenant::prepare(s, "lag").await?;
        second.spec["deletionPolicy"] = json!("Delete");
        second.spec["indexer"] = json!({
            "autoscaling": {"minReplicas": 1, "maxReplicas": 2},
            "bulk": {"maxDocuments": 1},
        });
        second.apply().await?;
        second.pipeline.ready().await?;
        let before = second.pipeline.pods("indexer").await?;
        ensure!(before.len() == 1, "{} indexers run from the start", before.len());

        publish(&second).await?;
        eventually("another indexer is ready", HELPED, async || {
            let status = second.pipeline.object().await?["status"].clone();
            ensure!(status["indexer"]["ready"] == 2, "{status}");
            Ok(())
        })
        .await?;
        let events = ["get", "events", "-n", &second.pipeline.namespace];
        let events = s.cluster.environment.kubectl(&events).await?;
        let told = events.lines().find(|line| line.contains("IndexerScaled"));
        let told = told.with_context(|| format!("no event tells of it: {events}"))?;
        ensure!(
            told.contains("from 1 to 2 indexers: what waits in Kafka"),
            "{told}"
        );
        Ok(())
    })
    .await
}

/// Events as of new orders, more at once than the API would take.
async fn publish(second: &Tenant) -> Result<()> {
    let statement = "
        insert into outbox_log (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload, correlation_id)
        select gen_random_uuid(), 'order', n::text, 1, 'order.created',
               jsonb_build_object('orderId', n::text, 'skuId', 1, 'quantity', 1, 'userId', 'ann', 'status', 'CREATED', 'version', 1,
                                  'correlationId', 'c', 'eventType', 'ORDER_CREATED', 'createdAt', now()),
               'c'
          from generate_series(1, $1) as n";
    let mut database = stores::postgres(&second.pipeline.cluster, Some(&second.id)).await?;
    sqlx::query(statement)
        .bind(EVENTS)
        .execute(&mut database.connection)
        .await
        .context("writing events into the outbox")?;
    Ok(())
}
