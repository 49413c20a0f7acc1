//! What a pipeline owns stays as the spec asks, and nothing is written where nothing is wrong.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use commerce_e2e::{
    cluster::{DEPLOYMENTS, PIPELINES, SERVICES},
    eventually::{eventually, throughout},
    orders::{Order, Orders, new_user},
    pipeline::{name, uid},
    scenario::{Outcome, Scenario, long_scenario, scenario},
};
use serde_json::json;

/// The operator watches what it owns.
const NOTICED: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_secs(15);

#[tokio::test]
async fn what_is_deleted_comes_back() -> Outcome {
    scenario(async |s| {
        let mut deleted = Vec::new();
        for (kind, name) in [(DEPLOYMENTS, "shop-indexer"), (SERVICES, "shop-api")] {
            deleted.push((kind, name, s.cluster.get(kind, "shop", name).await?));
            s.cluster.delete(kind, "shop", name).await?;
        }
        for (kind, name, before) in deleted {
            eventually(&format!("{name} is back"), NOTICED, async || {
                let now = s.cluster.get(kind, "shop", name).await?;
                ensure!(uid(&now) != uid(&before), "it is the one that was deleted");
                Ok(())
            })
            .await?;
        }
        // The indexer is away until its new pods run: the pipeline says so, and then that it is over.
        s.shop.ready().await?;
        orders_flow(s).await
    })
    .await
}

#[tokio::test]
async fn what_is_edited_is_put_right() -> Outcome {
    scenario(async |s| {
        let before = s.cluster.get(DEPLOYMENTS, "shop", "shop-relay").await?;
        let image = before
            .pointer("/spec/template/spec/containers/0/image")
            .cloned()
            .unwrap_or_default();
        let wanted = before["spec"]["replicas"].clone();
        s.cluster
            .change(
                DEPLOYMENTS,
                "shop",
                "shop-relay",
                &json!({"spec": {"replicas": 0}}),
            )
            .await?;
        eventually("the replicas are put right", NOTICED, async || {
            let now = s.cluster.get(DEPLOYMENTS, "shop", "shop-relay").await?;
            ensure!(
                now["spec"]["replicas"] == wanted,
                "there are to be {}",
                now["spec"]["replicas"]
            );
            Ok(())
        })
        .await?;

        let port = json!({"spec": {"ports": [{"name": "http", "port": 80, "targetPort": 81}]}});
        let correct = s.cluster.get(SERVICES, "shop", "shop-api").await?["spec"]["ports"].clone();
        s.cluster.change(SERVICES, "shop", "shop-api", &port).await?;
        eventually("the port is put right", NOTICED, async || {
            let now = s.cluster.get(SERVICES, "shop", "shop-api").await?["spec"]["ports"].clone();
            ensure!(now == correct, "the ports are {now}, not {correct}");
            Ok(())
        })
        .await?;
        s.shop.ready().await?;
        let after = s.cluster.get(DEPLOYMENTS, "shop", "shop-relay").await?;
        assert_eq!(
            after.pointer("/spec/template/spec/containers/0/image"),
            Some(&image)
        );
        orders_flow(s).await
    })
    .await
}

#[tokio::test]
async fn a_suspended_pipeline_is_left_as_it_is() -> Outcome {
    scenario(async |s| {
        let suspend = async |suspend: bool| {
            let change = json!({"spec": {"suspend": suspend}});
            s.cluster.change(PIPELINES, "shop", "shop", &change).await
        };
        let (cluster, back) = (s.cluster.clone(), json!({"spec": {"suspend": false}}));
        s.afterwards("going on", async move {
            cluster.change(PIPELINES, "shop", "shop", &back).await.map(drop)
        });
        suspend(true).await?;
        s.shop.reaches("Suspended", "True", NOTICED).await?;
        s.cluster.delete(SERVICES, "shop", "shop-api").await?;
        throughout("the Service stays away", QUIET, async || {
            let found = s.cluster.find(SERVICES, "shop", "shop-api").await?;
            ensure!(found.is_none(), "it was made again");
            Ok(())
        })
        .await?;
        suspend(false).await?;
        eventually("the Service is back", NOTICED, async || {
            s.cluster.get(SERVICES, "shop", "shop-api").await.map(drop)
        })
        .await?;
        s.shop.ready().await?;
        orders_flow(s).await
    })
    .await
}

#[tokio::test]
async fn nothing_is_written_when_nothing_changes() -> Outcome {
    scenario(async |s| rests(s, QUIET).await).await
}

#[tokio::test]
#[ignore = "takes ten minutes: E2E='--ignored ten_idle_minutes' make e2e"]
async fn nothing_is_written_in_ten_idle_minutes() -> Outcome {
    let long = Duration::from_mins(10);
    long_scenario(2 * long, async |s| rests(s, long).await).await
}

/// Neither the pipeline nor what it owns changes for so long.
async fn rests(s: &Scenario, long: Duration) -> Result<()> {
    // What other tests did may still be settling: quiet begins with the first look that equals the next.
    let mut before = versions(s).await?;
    eventually("the objects have settled", Duration::from_secs(30), async || {
        let now = versions(s).await?;
        let settled = now == before;
        before = now;
        ensure!(settled, "they still change");
        Ok(())
    })
    .await?;
    throughout("nothing is written", long, async || {
        let now = versions(s).await?;
        let changed: Vec<_> = now
            .iter()
            .filter(|(object, version)| before.get(*object) != Some(version))
            .collect();
        ensure!(
            changed.is_empty() && now.len() == before.len(),
            "written: {changed:?}"
        );
        Ok(())
    })
    .await
}

/// The resource version of the pipeline and of all that it owns.
async fn versions(s: &Scenario) -> Result<BTreeMap<String, String>> {
    let mut objects = s.shop.owned().await?;
    objects.push((PIPELINES, s.shop.object().await?));
    let version = |object: &serde_json::Value| object["metadata"]["resourceVersion"].to_string();
    Ok(objects
        .iter()
        .map(|(kind, object)| (format!("{}/{}", kind.plural, name(object)), version(object)))
        .collect())
}

/// An order goes all the way; the ingress may take a moment to follow a Service that was made anew.
async fn orders_flow(s: &Scenario) -> Result<()> {
    let orders = Orders::through_ingress(&s.cluster, None)?;
    let user = new_user();
    let id = orders.place_persistently(&Order::of(&user)).await?;
    orders
        .finds(&user, &[id], Duration::from_secs(10))
        .await
        .map(drop)
}
