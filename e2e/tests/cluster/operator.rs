//! The operator as a program in the cluster: its log level at run time, an operator of some namespaces only, and what it says an apply
//! would change.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use commerce_e2e::{
    cluster::{DEPLOYMENTS, SERVICES},
    environment::Environment,
    eventually::{eventually, throughout},
    pipeline::{Pipeline, name, uid},
    scenario::{Outcome, Scenario, scenario},
    stores,
    tenant::Tenant,
};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::releases::{OPERATOR_NAMESPACE, by_name, install_operator, operator_pods, operator_values};

const OPERATOR: &str = "deploy/commerce-operator";
/// The kubelet brings a changed `ConfigMap` into pods at its next sync, if not before.
const SYNCED: Duration = Duration::from_mins(2);
/// After a change of the release: a leader, and a pass over all pipelines.
const TAKEN_UP: Duration = Duration::from_mins(1);
const QUIET: Duration = Duration::from_secs(15);

#[tokio::test]
async fn the_log_level_changes_while_the_operator_runs() -> Outcome {
    scenario(async |s| {
        let before = by_name(&operator_pods(s).await?);
        let environment = s.cluster.environment.clone();
        s.afterwards("taking the annotation away", async move {
            annotate(&environment, "e2e-log-level-").await
        });
        change_release(s, &["--set", "log.level=debug"]).await?;
        annotate(&s.cluster.environment, "e2e-log-level=debug").await?;
        for pod in before.keys() {
            let log = ["logs", "-n", OPERATOR_NAMESPACE, pod, "--since=5s"];
            eventually("the operator logs more", SYNCED, async || {
                let log = s.cluster.environment.kubectl(&log).await?;
                ensure!(log.contains(r#""level":"DEBUG""#), "{pod} logs: {log}");
                Ok(())
            })
            .await?;
        }
        assert_eq!(
            by_name(&operator_pods(s).await?),
            before,
            "no pod was restarted for it"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_operator_of_some_namespaces_leaves_the_others_alone() -> Outcome {
    scenario(async |s| {
        let mut tenants = Vec::new();
        for purpose in ["watched", "unwatched"] {
            let mut tenant = Tenant::prepare(s, purpose).await?;
            tenant.spec["deletionPolicy"] = json!("Delete");
            tenant.apply().await?;
            tenants.push(tenant);
        }
        for tenant in &tenants {
            tenant.pipeline.ready().await?;
        }
        let (watched, unwatched) = (&tenants[0].pipeline, &tenants[1].pipeline);
        let values = operator_values(&s.cluster.environment).await?;
        let namespaces = format!(
            "rbac.watchNamespaces={{{},{}}}",
            s.shop.namespace, watched.namespace
        );
        change_release(s, &["--set", "rbac.scope=namespace", "--set", &namespaces]).await?;

        // The names of those that the chart makes for people end with -view and -edit.
        let roles = s
            .cluster
            .environment
            .kubectl(&["get", "clusterroles", "-o", "name"])
            .await?;
        ensure!(
            !roles.lines().any(|role| role.ends_with("/commerce-operator")),
            "it has rights in the whole cluster: {roles}"
        );
        for pipeline in [&s.shop, watched] {
            heals(pipeline).await?;
        }
        let (namespace, relay) = (&unwatched.namespace, "second-relay");
        s.cluster.delete(DEPLOYMENTS, namespace, relay).await?;
        throughout("the other namespace is left alone", QUIET, async || {
            let found = s.cluster.find(DEPLOYMENTS, namespace, relay).await?;
            ensure!(found.is_none(), "{relay} was made again");
            Ok(())
        })
        .await?;

        install_operator(s.cluster.environment.clone(), values).await?;
        eventually("it is made again", TAKEN_UP, async || {
            s.cluster.get(DEPLOYMENTS, namespace, relay).await.map(drop)
        })
        .await?;
        unwatched.ready_within(TAKEN_UP).await
    })
    .await
}

#[tokio::test]
async fn a_plan_tells_what_an_apply_would_change_and_changes_nothing() -> Outcome {
    scenario(async |s| {
        let mut second = Tenant::prepare(s, "plan").await?;
        second.spec["deletionPolicy"] = json!("Delete");
        second.spec["kafka"]["topics"]["config"] = json!({"retention.ms": "604800000"});
        second.apply().await?;
        second.pipeline.ready().await?;
        let (code, plan) = plan(&s.cluster.environment, &second.manifest()).await?;
        ensure!(code == 0 && plan.contains("No changes."), "{code}: {plan}");

        let owned = versions(&second).await?;
        let (topic, index) = (
            format!("{}.order.created", second.id),
            second.indices_and_template().await?,
        );
        second.spec["relay"]["replicas"] = json!(3);
        second.spec["kafka"]["topics"]["config"]["retention.ms"] = json!("86400000");
        second.spec["elasticsearch"]["index"]["mappings"] =
            json!({"properties": {"note": {"type": "keyword"}}});
        let (code, plan) = self::plan(&s.cluster.environment, &second.manifest()).await?;
        ensure!(code == 1, "{code}: {plan}");
        for told in ["second-relay", "replicas", "retention.ms", "86400000", "note"] {
            ensure!(plan.contains(told), "nothing of {told} in: {plan}");
        }
        throughout("nothing has changed", QUIET, async || {
            let now = versions(&second).await?;
            ensure!(now == owned, "{now:?}, not {owned:?}");
            Ok(())
        })
        .await?;
        let config = stores::kafka_topic_config(&s.cluster, &topic).await?;
        ensure!(config.contains("retention.ms=604800000"), "{config}");
        assert_eq!(second.indices_and_template().await?, index);
        Ok(())
    })
    .await
}

/// Changes values of the operator's release, until the scenario is over.
async fn change_release(s: &Scenario, values: &[&str]) -> Result<()> {
    let environment = s.cluster.environment.clone();
    let before = operator_values(&environment).await?;
    s.afterwards(
        "giving the operator its values back",
        install_operator(environment.clone(), before),
    );
    let chart = environment.chart("commerce-operator");
    let upgrade = [
        "upgrade",
        "commerce-operator",
        &chart,
        "-n",
        OPERATOR_NAMESPACE,
        "--reuse-values",
    ];
    let arguments = [&upgrade[..], values, &["--wait", "--timeout=2m"]].concat();
    environment.helm(&arguments).await.map(drop)
}

/// A deleted Service of the pipeline is made again.
async fn heals(pipeline: &Pipeline) -> Result<()> {
    let (cluster, namespace) = (&pipeline.cluster, &pipeline.namespace);
    let service = format!("{}-api", pipeline.name);
    let before = cluster.get(SERVICES, namespace, &service).await?;
    cluster.delete(SERVICES, namespace, &service).await?;
    eventually(
        &format!("{service} in {namespace} is back"),
        TAKEN_UP,
        async || {
            let now = cluster.get(SERVICES, namespace, &service).await?;
            ensure!(uid(&now) != uid(&before), "it is the one that was deleted");
            Ok(())
        },
    )
    .await
}

/// Annotates the operator's pods, on which the kubelet brings changed `ConfigMap`s into them at once.
async fn annotate(environment: &Environment, annotation: &str) -> Result<()> {
    let arguments = [
        "annotate",
        "pods",
        "-n",
        OPERATOR_NAMESPACE,
        "-l",
        "app.kubernetes.io/name=commerce-operator",
        "--overwrite",
        annotation,
    ];
    environment.kubectl(&arguments).await.map(drop)
}

/// What a pipeline is and owns, with resource versions. What the services report of themselves goes on changing the status.
async fn versions(tenant: &Tenant) -> Result<BTreeMap<String, Value>> {
    let owned = tenant.pipeline.owned().await?;
    let mut versions: BTreeMap<_, _> = owned
        .iter()
        .map(|(kind, object)| {
            let id = format!("{} {}", kind.plural, name(object));
            (id, object["metadata"]["resourceVersion"].clone())
        })
        .collect();
    let pipeline = tenant.pipeline.object().await?;
    versions.insert("the pipeline's spec".to_owned(), pipeline["spec"].clone());
    Ok(versions)
}

/// How `plan` ends in the operator's pod, where the stores can be reached, and what it prints.
async fn plan(environment: &Environment, manifest: &Value) -> Result<(i32, String)> {
    let exec = ["exec", "-i", "-n", OPERATOR_NAMESPACE, OPERATOR, "--"];
    let plan = ["commerce-operator", "plan", "-f", "-"];
    let mut command = environment.command("kubectl", &[&exec[..], &plan].concat());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("starting kubectl exec")?;
    let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
    stdin.write_all(manifest.to_string().as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    let printed = [output.stdout, output.stderr].concat();
    let code = output
        .status
        .code()
        .context("kubectl exec was ended by a signal")?;
    Ok((code, String::from_utf8_lossy(&printed).into_owned()))
}
