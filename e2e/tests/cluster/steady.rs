//! Not one request fails while the pipeline is upgraded, its secret rotated, its pods evicted and its operator replaced.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use commerce_e2e::{
    cluster::{PIPELINES, PODS, SECRETS},
    eventually::eventually,
    k6::K6,
    pipeline::{name, uid},
    scenario::{Outcome, Scenario, scenario},
    stores,
};
use serde_json::{Value, json};

use crate::releases::{OPERATOR_NAMESPACE, operator_pods};

const COMPONENTS: [&str; 3] = ["api", "relay", "indexer"];
/// For three Deployments, one after the other, on a busy machine.
const ROLLED_OUT: Duration = Duration::from_mins(3);
/// Longer than all that is done meanwhile.
const K6_TIME: &str = "180s";

#[tokio::test]
async fn no_request_fails_whatever_is_replaced() -> Outcome {
    scenario(async |s| {
        let k6 = start_k6(s, K6_TIME).await?;
        upgrade(s).await.context("while the image was upgraded")?;
        rotate(s).await.context("while the secret was rotated")?;
        evict(s).await.context("while pods were evicted")?;
        replace_operator(s)
            .await
            .context("while the operator was replaced")?;
        ensure!(
            k6.runs().await?,
            "k6 was over before the last disturbance: it proves nothing; see K6_TIME"
        );
        k6.passes(Duration::from_mins(4)).await
    })
    .await
}

#[tokio::test]
#[ignore = "takes a second node: make down, WORKERS=1 make up, E2E='--ignored drained' make e2e"]
async fn no_request_fails_while_a_node_is_drained() -> Outcome {
    scenario(async |s| {
        let workers = [
            "get",
            "nodes",
            "-l",
            "!node-role.kubernetes.io/control-plane",
            "-o",
            "name",
        ];
        let workers = s.cluster.environment.kubectl(&workers).await?;
        let worker = workers
            .lines()
            .next()
            .context("there is no second node")?
            .to_owned();
        let on_it = async || -> Result<Vec<String>> {
            let pods = s.shop.pods("").await?;
            let on_it = pods
                .iter()
                .filter(|pod| worker.strip_prefix("node/") == pod["spec"]["nodeName"].as_str());
            Ok(on_it.map(|pod| name(pod).to_owned()).collect())
        };
        let before = on_it().await?;
        ensure!(!before.is_empty(), "{worker} has no pod of the pipeline");

        let k6 = start_k6(s, "90s").await?;
        let (environment, drained) = (s.cluster.environment.clone(), worker.clone());
        s.afterwards("taking the node back", async move {
            environment.kubectl(&["uncordon", &drained]).await.map(drop)
        });
        // The stores are left where their volumes are.
        let drain = [
            "drain",
            &worker,
            "--ignore-daemonsets",
            "--pod-selector=app.kubernetes.io/instance=shop",
            "--timeout=80s",
        ];
        s.cluster.environment.kubectl(&drain).await?;
        let left = on_it().await?;
        ensure!(left.is_empty(), "{left:?} are still on {worker}");
        ensure!(k6.runs().await?, "k6 was over before the node was drained");
        s.shop.ready().await?;
        k6.passes(Duration::from_mins(2)).await
    })
    .await
}

/// Sends requests for so long, from now on.
async fn start_k6(s: &Scenario, time: &str) -> Result<K6> {
    let k6 = K6::start(s, "steady", &[&format!("duration={time}")]).await?;
    eventually("k6 sends requests", Duration::from_mins(1), async || {
        let log = k6.log("k6").await?;
        ensure!(log.contains("running"), "{log}");
        Ok(())
    })
    .await?;
    Ok(k6)
}

/// Another tag of the same images: to Kubernetes it is another version.
async fn upgrade(s: &Scenario) -> Result<()> {
    let image = s.shop.object().await?["spec"]["image"].clone();
    let text = |field: &str| {
        image[field]
            .as_str()
            .with_context(|| format!("{field} in {image}"))
    };
    let (registry, tag) = (text("registry")?, text("tag")?);
    let next = format!("{tag}-next");
    for component in COMPONENTS {
        let of = |tag: &str| format!("{registry}/commerce-{component}:{tag}");
        s.cluster.environment.tag_image(&of(tag), &of(&next)).await?;
    }
    let (shop, back) = (s.shop.clone(), json!({"spec": {"image": {"tag": tag}}}));
    s.afterwards("going back to the image", async move {
        shop.cluster
            .change(PIPELINES, &shop.namespace, &shop.name, &back)
            .await?;
        shop.ready_within(ROLLED_OUT).await
    });
    let before = s.shop.pod_uids("").await?;
    let change = json!({"spec": {"image": {"tag": next}}});
    s.cluster
        .change(PIPELINES, &s.shop.namespace, &s.shop.name, &change)
        .await?;
    replaced(s, &before).await
}

/// A new way to say the same: whoever reads the Secret has to start anew, as with another password.
async fn rotate(s: &Scenario) -> Result<()> {
    let uri = stores::secret(&s.cluster, "stores-postgres", "uri").await?;
    let separator = if uri.contains('?') { '&' } else { '?' };
    let rotated = format!("{uri}{separator}application_name=rotated");
    let (cluster, shop) = (s.cluster.clone(), s.shop.clone());
    let change = |uri: &str| json!({"data": {"uri": STANDARD.encode(uri)}});
    let back = change(&uri);
    s.afterwards("putting the secret back", async move {
        cluster
            .change(SECRETS, stores::NAMESPACE, "stores-postgres", &back)
            .await?;
        shop.ready_within(ROLLED_OUT).await
    });
    let before = s.shop.pod_uids("").await?;
    s.cluster
        .change(SECRETS, stores::NAMESPACE, "stores-postgres", &change(&rotated))
        .await?;
    // The indexer does not read it.
    let before = of_components(s, &["api", "relay"], &before).await?;
    replaced(s, &before).await
}

/// As `kubectl drain` does it: each pod by its eviction, which waits for the disruption budget.
async fn evict(s: &Scenario) -> Result<()> {
    let before = s.shop.pod_uids("").await?;
    for pod in s.shop.pods("").await? {
        let metadata = json!({"name": name(&pod), "namespace": s.shop.namespace});
        let eviction =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}).to_string();
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}/eviction",
            s.shop.namespace,
            name(&pod)
        );
        eventually("the pod may be evicted", Duration::from_mins(1), async || {
            let arguments = ["create", "--raw", &path, "-f", "-"];
            s.cluster
                .environment
                .run_with_input("kubectl", &arguments, &eviction)
                .await
                .map(drop)
        })
        .await?;
    }
    replaced(s, &before).await
}

async fn replace_operator(s: &Scenario) -> Result<()> {
    let pods = operator_pods(s).await?;
    ensure!(!pods.is_empty(), "no operator runs");
    for pod in &pods {
        s.cluster.delete(PODS, OPERATOR_NAMESPACE, name(pod)).await?;
    }
    let rollout = [
        "rollout",
        "status",
        "deployment/commerce-operator",
        "-n",
        OPERATOR_NAMESPACE,
        "--timeout=90s",
    ];
    s.cluster.environment.kubectl(&rollout).await?;
    s.shop.ready().await
}

/// Those of `pods` that are of one of these components.
async fn of_components(
    s: &Scenario,
    components: &[&str],
    pods: &BTreeSet<String>,
) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for component in components {
        found.extend(s.shop.pod_uids(component).await?);
    }
    Ok(found.intersection(pods).cloned().collect())
}

/// Waits until none of these pods is left, and all that are there are ready.
async fn replaced(s: &Scenario, before: &BTreeSet<String>) -> Result<()> {
    eventually("other pods have taken over", ROLLED_OUT, async || {
        let pods = s.shop.pods("").await?;
        for component in COMPONENTS {
            ensure!(
                pods.iter()
                    .any(|pod| pod.pointer("/metadata/labels/app.kubernetes.io~1component")
                        == Some(&Value::from(component))),
                "no pod of {component}"
            );
        }
        for pod in &pods {
            ensure!(!before.contains(uid(pod)), "{} is still there", name(pod));
            ensure!(stores::is_ready(pod), "{} is not ready", name(pod));
        }
        Ok(())
    })
    .await?;
    s.shop.ready().await
}
