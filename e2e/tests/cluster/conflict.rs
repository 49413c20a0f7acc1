//! A second pipeline that claims the first one's topics is told so, and the first one goes on unharmed.

use std::time::Duration;

use anyhow::ensure;
use commerce_e2e::{
    cluster::{DEPLOYMENTS, JOBS, PIPELINES},
    orders::{Order, Orders, new_user},
    pipeline::uid,
    scenario::{Outcome, scenario},
    stores,
    tenant::Tenant,
};
use serde_json::{Value, json};

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

/// As where a pipeline of another cluster was given the same database.
#[tokio::test]
async fn a_database_that_is_marked_as_another_clusters_is_left_alone_until_it_is_adopted() -> Outcome {
    scenario(async |s| {
        let mut tenant = Tenant::prepare(s, "marked").await?;
        tenant.spec["deletionPolicy"] = json!("Delete");
        tenant.apply().await?;
        tenant.pipeline.ready().await?;
        let pipeline = &tenant.pipeline;
        let own = uid(&pipeline.object().await?).to_owned();
        let mut database = stores::postgres(&s.cluster, Some(&tenant.id)).await?;
        let holder = "select uid from pipeline_owner";
        let marked: String = sqlx::query_scalar(holder)
            .fetch_one(&mut database.connection)
            .await?;
        assert_eq!(marked, own);

        let others = "update pipeline_owner set uid = 'elsewhere', cluster = 'elsewhere', namespace = 'far', name = 'away'";
        sqlx::query(others).execute(&mut database.connection).await?;
        let change = async |change: &Value| {
            let (namespace, name) = (&pipeline.namespace, &pipeline.name);
            s.cluster.change(PIPELINES, namespace, name, change).await
        };
        change(&json!({"spec": {"relay": {"batchSize": 50}}})).await?;
        let wanted = Duration::from_secs(30);
        let condition = pipeline.reaches("SchemaReady", "False", wanted).await?;
        ensure!(
            condition.reason == "Conflict" && condition.message.contains("far/away"),
            "{condition:?}"
        );
        let (user, orders) = (new_user(), tenant.orders()?);
        let id = orders.place(&Order::of(&user)).await?;
        orders.finds(&user, &[id], Duration::from_secs(10)).await?;

        change(&json!({"metadata": {"annotations": {"commerce.lab/adopt-external": "true"}}})).await?;
        pipeline.reaches("SchemaReady", "True", wanted).await?;
        pipeline.ready().await?;
        let marked: String = sqlx::query_scalar(holder)
            .fetch_one(&mut database.connection)
            .await?;
        assert_eq!(marked, own);
        Ok(())
    })
    .await
}
