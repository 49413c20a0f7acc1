//! Whether orders flow is told beside whether all runs, and why not.

use std::time::Duration;

use anyhow::ensure;
use commerce_e2e::{
    eventually::eventually,
    scenario::{Outcome, scenario},
    tenant::Tenant,
};
use serde_json::json;

const TOLD: Duration = Duration::from_secs(90);

#[tokio::test]
async fn a_pipeline_without_a_relay_says_that_orders_wait() -> Outcome {
    scenario(async |s| {
        let mut second = Tenant::prepare(s, "flow").await?;
        second.spec["deletionPolicy"] = json!("Delete");
        second.apply().await?;
        second.pipeline.ready().await?;
        second.pipeline.reaches("Flowing", "True", TOLD).await?;

        let relay = second.spec["relay"].clone();
        second.spec["relay"]["replicas"] = json!(0);
        second.apply().await?;
        let told = second.pipeline.reaches("Flowing", "False", TOLD).await?;
        ensure!(told.reason == "NoActiveRelay", "{told:?}");
        ensure!(told.message.contains("relay.replicas"), "{told:?}");

        second.spec["relay"] = relay;
        second.apply().await?;
        eventually("a relay publishes again", TOLD, async || {
            let now = second.pipeline.condition("Flowing").await?;
            ensure!(now.reason != "NoActiveRelay", "{now:?}");
            Ok(())
        })
        .await
    })
    .await
}
