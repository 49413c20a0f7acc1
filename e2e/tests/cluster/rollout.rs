//! A version that does not start gets no further, and harms nobody.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use commerce_e2e::{
    eventually::eventually,
    orders::{Order, new_user},
    scenario::{Outcome, Scenario, scenario},
    tenant::Tenant,
};
use serde_json::json;

/// The migration, and until a container has failed twice.
const STUCK: Duration = Duration::from_mins(2);
const BACK: Duration = Duration::from_mins(1);
const FOUND: Duration = Duration::from_secs(5);
/// How a program ends its complaint about a command that it does not know.
const LAST_LINE: &str = "try '--help'";

#[tokio::test]
async fn a_version_that_does_not_start_leaves_the_old_one_serving_and_the_old_spec_takes_it_back() -> Outcome
{
    scenario(async |s| {
        let mut second = Tenant::prepare(s, "rollout").await?;
        second.spec["deletionPolicy"] = json!("Delete");
        second.apply().await?;
        second.pipeline.ready().await?;
        let before = second.pipeline.pod_uids("").await?;

        let tag = second.spec["image"]["tag"].clone();
        second.spec["image"]["tag"] = json!(broken(s, &second).await?);
        second.apply().await?;
        eventually("the condition tells which pod, and why", STUCK, async || {
            let indexer = second.pipeline.condition("IndexerAvailable").await?;
            let told = indexer.message.contains("second-indexer-") && indexer.message.contains(LAST_LINE);
            ensure!(
                indexer.reason == "RolloutStuck" && indexer.status == "True" && told,
                "{indexer:?}"
            );
            Ok(())
        })
        .await?;
        for condition in ["RelayAvailable", "ApiAvailable"] {
            let waits = second.pipeline.condition(condition).await?;
            ensure!(
                waits.reason == "RolloutWaiting" && waits.message.contains("waits for indexer"),
                "{condition}: {waits:?}"
            );
        }
        let now = second.pipeline.pod_uids("").await?;
        ensure!(
            before.is_subset(&now),
            "pods that served are gone: {before:?}, {now:?}"
        );
        let (user, orders) = (new_user(), second.orders()?);
        let id = orders.place(&Order::of(&user)).await?;
        orders.finds(&user, &[id], FOUND).await?;

        second.spec["image"]["tag"] = tag;
        second.apply().await?;
        eventually("all is as it was", BACK, async || {
            let now = second.pipeline.pod_uids("").await?;
            ensure!(now == before, "{now:?}, not {before:?}");
            Ok(())
        })
        .await?;
        second.pipeline.ready_within(BACK).await
    })
    .await
}

/// The tag of a version whose indexer is an operator, which ends at once, since it does not know the command.
async fn broken(s: &Scenario, second: &Tenant) -> Result<String> {
    let image = &second.spec["image"];
    let text = |field: &str| {
        image[field]
            .as_str()
            .with_context(|| format!("{field} in {image}"))
    };
    let (registry, tag) = (text("registry")?, text("tag")?);
    let next = format!("{tag}-broken");
    for (component, taken) in [("api", "api"), ("relay", "relay"), ("indexer", "operator")] {
        let of = |component: &str, tag: &str| format!("{registry}/commerce-{component}:{tag}");
        let (image, name) = (of(taken, tag), of(component, &next));
        s.cluster.environment.tag_image(&image, &name).await?;
    }
    Ok(next)
}
