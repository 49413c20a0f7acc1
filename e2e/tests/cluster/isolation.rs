//! Two pipelines on the same stores know nothing of each other.

use std::time::Duration;

use anyhow::ensure;
use commerce_e2e::{
    cluster::PIPELINES,
    orders::{Order, Orders, new_user},
    scenario::{Outcome, scenario},
    stores,
    tenant::Tenant,
};
use serde_json::json;

const SEARCHABLE_WITHIN: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_second_pipeline_sees_nothing_of_the_first() -> Outcome {
    scenario(async |s| {
        let mut second = Tenant::prepare(s, "second").await?;
        second.spec["deletionPolicy"] = json!("Delete");
        let (repository, tag) = s.cluster.environment.image("k6")?;
        let values = json!({
            "name": second.pipeline.name,
            "spec": second.spec,
            "test": {"image": {"repository": repository, "tag": tag}},
        });
        let chart = s.cluster.environment.chart("commerce-pipeline");
        let namespace = second.pipeline.namespace.clone();
        let install = ["install", "second", &chart, "-n", &namespace, "-f", "-"];
        s.cluster
            .environment
            .run_with_input("helm", &install, &values.to_string())
            .await?;
        second.pipeline.ready().await?;

        // The same user orders in both: only the pipeline tells the orders apart.
        let user = new_user();
        let (first, second_api) = (Orders::through_ingress(&s.cluster, None)?, second.orders()?);
        let first_id = first.place(&Order::of(&user)).await?;
        let mut second_ids = Vec::new();
        for _ in 0..3 {
            second_ids.push(
                second_api
                    .place(&Order {
                        quantity: 2,
                        ..Order::of(&user)
                    })
                    .await?,
            );
        }
        let in_first = first
            .finds(&user, std::slice::from_ref(&first_id), SEARCHABLE_WITHIN)
            .await?;
        let in_second = second_api.finds(&user, &second_ids, SEARCHABLE_WITHIN).await?;
        ensure!(
            in_first.values().all(|order| order["quantity"] == 1),
            "{in_first:?}"
        );
        ensure!(
            in_second.values().all(|order| order["quantity"] == 2),
            "{in_second:?}"
        );

        // Each database has its own orders, each pipeline its own topics and index.
        for (database, expected) in [(None, 1), (Some(second.id.as_str()), 3)] {
            let mut database = stores::postgres(&s.cluster, database).await?;
            let query = "select count(*) from orders where user_id = $1";
            let orders: i64 = sqlx::query_scalar(query)
                .bind(&user)
                .fetch_one(&mut database.connection)
                .await?;
            assert_eq!(orders, expected);
        }
        assert_eq!(second.topics().await?.len(), 4);
        let status = second.pipeline.object().await?["status"].clone();
        assert!(
            status["index"]["active"]
                .as_str()
                .is_some_and(|i| i.starts_with(&second.id)),
            "{status}"
        );

        // The chart's own test places an order and finds it.
        s.cluster
            .environment
            .helm(&["test", "second", "-n", &namespace, "--logs"])
            .await?;

        s.cluster
            .environment
            .helm(&["uninstall", "second", "-n", &namespace])
            .await?;
        s.cluster
            .gone(
                PIPELINES,
                &namespace,
                &second.pipeline.name,
                Duration::from_mins(1),
            )
            .await?;
        first.finds(&user, &[first_id], SEARCHABLE_WITHIN).await?;
        ensure!(
            s.shop.condition("Ready").await?.status == "True",
            "the first pipeline suffered"
        );
        Ok(())
    })
    .await
}
