//! The operator's leader is killed in the middle of a change; the API server is away for a minute.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use commerce_e2e::{
    cluster::{LEASES, PIPELINES},
    environment::Environment,
    eventually::eventually,
    orders::{Order, Orders, new_user},
    pipeline::name,
    scenario::{Outcome, Scenario, scenario},
};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::releases::{OPERATOR_NAMESPACE, operator_pods, pipeline_pods};

const OPERATOR: &str = "commerce-operator";
/// A Lease that nobody renews is free after 15 s.
const TAKEN_OVER: Duration = Duration::from_mins(1);
const AWAY: Duration = Duration::from_mins(1);
const MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";
const PUT_ASIDE: &str = "/etc/kubernetes/kube-apiserver.yaml";

#[tokio::test]
async fn another_replica_ends_what_a_killed_leader_began() -> Outcome {
    scenario(async |s| {
        let replicas = s.shop.object().await?["spec"]["api"]["replicas"]
            .as_i64()
            .context("api.replicas")?;
        let change = |replicas: i64| json!({"spec": {"api": {"replicas": replicas}}});
        let (shop, back) = (s.shop.clone(), change(replicas));
        s.afterwards("going back to as many replicas", async move {
            shop.cluster
                .change(PIPELINES, &shop.namespace, &shop.name, &back)
                .await?;
            shop.ready().await
        });
        let leader = leader(s).await?;
        s.cluster
            .change(PIPELINES, &s.shop.namespace, &s.shop.name, &change(replicas + 1))
            .await?;
        let kill = [
            "delete",
            "pod",
            "-n",
            OPERATOR_NAMESPACE,
            &leader,
            "--grace-period=0",
            "--force",
            "--wait=false",
        ];
        s.cluster.environment.kubectl(&kill).await?;

        s.shop.ready().await?;
        let pods = s.shop.pods("api").await?;
        assert_eq!(
            i64::try_from(pods.len())?,
            replicas + 1,
            "the change was carried out"
        );
        eventually("another replica leads", TAKEN_OVER, async || {
            let now = self::leader(s).await?;
            ensure!(now != leader, "the Lease names {leader}, which is gone");
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn orders_go_on_without_the_api_server() -> Outcome {
    scenario(async |s| {
        let orders = Orders::through_ingress(&s.cluster, None)?;
        let (user, pods) = (new_user(), pipeline_pods(s).await?);
        take_away(s).await?;

        let (began, mut ids) = (Instant::now(), Vec::new());
        let mut pace = interval(Duration::from_millis(500));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while began.elapsed() < AWAY {
            pace.tick().await;
            ids.push(orders.place(&Order::of(&user)).await?);
        }
        orders.finds(&user, &ids, Duration::from_secs(10)).await?;

        give_back(s).await?;
        eventually("the operator leads again", Duration::from_mins(2), async || {
            let leader = leader(s).await?;
            let pods = operator_pods(s).await?;
            ensure!(
                pods.iter().any(|pod| name(pod) == leader),
                "the Lease names {leader}"
            );
            Ok(())
        })
        .await?;
        s.shop.ready().await?;
        assert_eq!(
            pipeline_pods(s).await?,
            pods,
            "the pipeline's pods were left alone"
        );
        Ok(())
    })
    .await
}

/// The pod of the operator that holds the Lease.
async fn leader(s: &Scenario) -> Result<String> {
    let lease = s.cluster.get(LEASES, OPERATOR_NAMESPACE, OPERATOR).await?;
    let holder = lease.pointer("/spec/holderIdentity").and_then(Value::as_str);
    let holder = holder.filter(|holder| !holder.is_empty());
    Ok(holder.context("nobody holds the Lease")?.to_owned())
}

/// Without its manifest, the kubelet stops the API server.
async fn take_away(s: &Scenario) -> Result<()> {
    let environment = s.cluster.environment.clone();
    s.afterwards("bringing the API server back", async move {
        put(&environment, PUT_ASIDE, MANIFEST).await
    });
    put(&s.cluster.environment, MANIFEST, PUT_ASIDE).await?;
    eventually("the API server is away", Duration::from_mins(1), async || {
        ensure!(s.shop.object().await.is_err(), "it answers");
        Ok(())
    })
    .await
}

async fn give_back(s: &Scenario) -> Result<()> {
    put(&s.cluster.environment, PUT_ASIDE, MANIFEST).await?;
    eventually("the API server answers", Duration::from_mins(2), async || {
        s.shop.object().await.map(drop)
    })
    .await
}

/// Moves a file on the node that has it.
async fn put(environment: &Environment, from: &str, to: &str) -> Result<()> {
    let script = format!("[ ! -e {from} ] || mv {from} {to}");
    environment.on_nodes(&["sh", "-c", &script]).await
}
