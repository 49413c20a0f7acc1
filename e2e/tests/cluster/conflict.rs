//! A second pipeline that claims the first one's topics is told so, and the first one goes on unharmed.

use std::time::Duration;

use anyhow::ensure;
use commerce_e2e::{
    cluster::{DEPLOYMENTS, JOBS},
    orders::{Order, Orders, new_user},
    scenario::{Outcome, scenario},
    tenant::Tenant,
};
use serde_json::json;

#[tokio::test]
async fn the_younger_of_two_touches_nothing_until_the_older_is_gone() -> Outcome {
    scenario(async |s| {
        let mut older = Tenant::prepare(s, "older").await?;
        older.spec["deletionPolicy"] = json!("Delete");
        older.apply().await?;
        older.pipeline.ready().await?;

        let mut younger = Tenant::prepare(s, "younger").await?;
        younger.spec["kafka"]["topics"]["prefix"] = older.spec["kafka"]["topics"]["prefix"].clone();
        younger.spec["elasticsearch"]["index"]["name"] = json!(older.id);
        younger.apply().await?;
        let wanted = Duration::from_mins(1);
        let condition = younger.pipeline.reaches("TopicsReady", "False", wanted).await?;
        let holder = format!("{}/{}", older.pipeline.namespace, older.pipeline.name);
        ensure!(
            condition.reason == "Conflict" && condition.message.contains(&holder),
            "{condition:?}"
        );
        ensure!(younger.pipeline.condition("IndexReady").await?.reason == "Conflict");
        for kind in [JOBS, DEPLOYMENTS] {
            let made = s.cluster.list(kind, &younger.pipeline.namespace, "").await?;
            ensure!(made.is_empty(), "{made:?}");
        }
        ensure!(older.pipeline.condition("Ready").await?.status == "True");
        let (user, orders) = (
            new_user(),
            Orders::through_ingress(&s.cluster, Some(&older.host()))?,
        );
        let id = orders.place(&Order::of(&user)).await?;
        orders.finds(&user, &[id], Duration::from_secs(10)).await?;

        older.pipeline.delete().await?;
        younger.pipeline.ready().await
    })
    .await
}
