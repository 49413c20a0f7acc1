//! What stands around the workloads: an autoscaler that scales the API by real metrics, network policies, a dashboard, a way in
//! by a Gateway, and kinds that this cluster does not have.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use commerce_e2e::{
    cluster::{
        CONFIG_MAPS, DEPLOYMENTS, HORIZONTAL_POD_AUTOSCALERS, HTTP_ROUTES, INGRESSES, NETWORK_POLICIES,
        PIPELINES, POD_MONITORS,
    },
    eventually::{eventually, throughout},
    orders::{Order, new_user},
    pipeline::{name, uid},
    scenario::{Outcome, Scenario, scenario},
    tenant::Tenant,
};
use serde_json::{Value, json};

const NOTICED: Duration = Duration::from_secs(10);
/// The metrics-server looks at new pods after a while, and the autoscaler at its figures every 15 s.
const SCALED: Duration = Duration::from_mins(3);
const QUIET: Duration = Duration::from_secs(15);
const FOUND: Duration = Duration::from_secs(30);
/// Which kinds there are is asked every 20 s, and pipelines are looked at every 30 s.
const LEARNT: Duration = Duration::from_mins(1);
/// What is watched is back within 2 s.
const BACK: Duration = Duration::from_secs(5);

#[tokio::test]
async fn what_stands_around_the_workloads_is_made_kept_and_taken_away() -> Outcome {
    scenario(async |s| {
        let mut second = Tenant::prepare(s, "around").await?;
        second.spec["api"]["resources"] = json!({"requests": {"cpu": "50m"}});
        second.spec["api"]["autoscaling"] =
            json!({"minReplicas": 1, "maxReplicas": 3, "targetCPUUtilization": 1});
        second.spec["networkPolicy"] = json!({"enabled": true});
        second.spec["monitoring"] = json!({"dashboards": {}, "podMonitor": {}});
        second.spec["deletionPolicy"] = json!("Delete");
        second.apply().await?;
        second.pipeline.ready().await?;
        let namespace = second.pipeline.namespace.clone();
        let all = async |kind| s.cluster.list(kind, &namespace, "").await;

        let policies: Vec<_> = all(NETWORK_POLICIES)
            .await?
            .iter()
            .map(|policy| name(policy).to_owned())
            .collect();
        for component in ["api", "relay", "indexer"] {
            let wanted = format!("second-{component}");
            ensure!(policies.contains(&wanted), "no {wanted} among {policies:?}");
        }
        ensure!(
            all(CONFIG_MAPS)
                .await?
                .iter()
                .any(|map| map["metadata"]["labels"]["grafana_dashboard"] == "1"),
            "no dashboard"
        );
        let missing = second.pipeline.condition("IntegrationsMissing").await?;
        ensure!(
            missing.status == "True" && missing.message.contains("PodMonitor"),
            "{missing:?}"
        );
        second.orders()?.place(&Order::of(&new_user())).await?;

        // An idle API uses more than one percent of what it requests: the autoscaler wants as many as it may have.
        let seen = async || {
            s.cluster
                .get(HORIZONTAL_POD_AUTOSCALERS, &namespace, "second-api")
                .await
        };
        let replicas = async || -> Result<Value> {
            let api = s.cluster.get(DEPLOYMENTS, &namespace, "second-api").await?;
            Ok(api["spec"]["replicas"].clone())
        };
        eventually("the autoscaler has scaled the API", SCALED, async || {
            let (now, autoscaler) = (replicas().await?, seen().await?);
            ensure!(now == 3, "there are {now}; {}", autoscaler["status"]);
            Ok(())
        })
        .await?;
        throughout("the autoscaler's replicas", QUIET, async || {
            let now = replicas().await?;
            ensure!(now == 3, "there are {now}");
            Ok(())
        })
        .await?;
        second.pipeline.ready().await?;

        let versions = async || -> Result<BTreeMap<String, String>> {
            let mut versions = BTreeMap::new();
            for kind in [NETWORK_POLICIES, CONFIG_MAPS] {
                for object in all(kind).await? {
                    let version = object["metadata"]["resourceVersion"].to_string();
                    versions.insert(format!("{} {}", kind.plural, name(&object)), version);
                }
            }
            Ok(versions)
        };
        let before = versions().await?;
        throughout("nothing is written", QUIET, async || {
            let now = versions().await?;
            ensure!(now == before, "{now:?}, not {before:?}");
            Ok(())
        })
        .await?;

        let off = json!({"spec": {"api": {"autoscaling": null}, "networkPolicy": {"enabled": false}}});
        s.cluster.change(PIPELINES, &namespace, "second", &off).await?;
        eventually("autoscaler and policies are gone", NOTICED, async || {
            let left = all(HORIZONTAL_POD_AUTOSCALERS).await?.len() + all(NETWORK_POLICIES).await?.len();
            ensure!(left == 0, "{left} are left");
            Ok(())
        })
        .await?;
        eventually("the spec's replicas are back", NOTICED, async || {
            let now = replicas().await?;
            ensure!(now == second.spec["api"]["replicas"], "there are {now}");
            Ok(())
        })
        .await?;
        second.pipeline.ready_within(FOUND).await
    })
    .await
}

/// Through the Gateway that Traefik has in its own namespace.
#[tokio::test]
async fn an_order_comes_in_by_a_gateway() -> Outcome {
    scenario(async |s| {
        let mut second = Tenant::prepare(s, "gateway").await?;
        let gateway = json!({"name": "traefik", "namespace": "traefik"});
        second.spec["api"] =
            json!({"replicas": 1, "gateway": {"hostnames": [second.host()], "parentRefs": [gateway]}});
        second.spec["deletionPolicy"] = json!("Delete");
        second.apply().await?;
        second.pipeline.ready().await?;
        let namespace = second.pipeline.namespace.clone();
        let ingresses = s.cluster.list(INGRESSES, &namespace, "").await?;
        ensure!(ingresses.is_empty(), "{ingresses:?}");
        let status = &second.pipeline.object().await?["status"];
        ensure!(status["url"] == format!("http://{}", second.host()), "{status}");

        let user = new_user();
        let orders = second.orders()?;
        let id = orders.place_persistently(&Order::of(&user)).await?;
        orders.finds(&user, &[id], FOUND).await?;
        eventually("the route's status says so", FOUND, async || {
            let route = s.cluster.get(HTTP_ROUTES, &namespace, "second").await?;
            let parent = &route["status"]["parents"][0];
            let accepted =
                |condition: &Value| condition["type"] == "Accepted" && condition["status"] == "True";
            let conditions = parent["conditions"].as_array();
            ensure!(conditions.is_some_and(|all| all.iter().any(accepted)), "{parent}");
            Ok(())
        })
        .await?;

        let off = json!({"spec": {"api": {"gateway": null}}});
        s.cluster.change(PIPELINES, &namespace, "second", &off).await?;
        eventually("the route is gone", NOTICED, async || {
            let left = s.cluster.list(HTTP_ROUTES, &namespace, "").await?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_kind_that_comes_and_goes_is_followed() -> Outcome {
    scenario(async |s| {
        let mut second = Tenant::prepare(s, "kinds").await?;
        second.spec["monitoring"] = json!({"podMonitor": {}});
        second.spec["deletionPolicy"] = json!("Delete");
        second.apply().await?;
        second.pipeline.ready().await?;
        s.cluster.define(POD_MONITORS, "PodMonitor").await?;
        let followed = follow(s, &second).await;
        s.cluster.undefine(POD_MONITORS).await?;
        followed?;
        eventually("its absence is told", LEARNT, async || {
            let missing = second.pipeline.condition("IntegrationsMissing").await?;
            ensure!(missing.status == "True", "{missing:?}");
            Ok(())
        })
        .await?;
        second.pipeline.ready().await
    })
    .await
}

/// The pipeline's `PodMonitor` is made, and made again when it is deleted.
async fn follow(s: &Scenario, second: &Tenant) -> Result<()> {
    let namespace = &second.pipeline.namespace;
    let get = async || s.cluster.get(POD_MONITORS, namespace, "second").await;
    let first = eventually("the PodMonitor is made", LEARNT, get).await?;
    ensure!(first["spec"]["podMetricsEndpoints"].is_array(), "{first}");
    eventually("a deleted PodMonitor is back soon", LEARNT, async || {
        let before = get().await?;
        s.cluster.delete(POD_MONITORS, namespace, "second").await?;
        let back = async || {
            let now = get().await?;
            ensure!(uid(&now) != uid(&before), "it is the one that was deleted");
            Ok(())
        };
        eventually("it is back", BACK, back).await
    })
    .await
}
