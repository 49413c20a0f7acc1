//! The charts on a live cluster: an upgrade that changes nothing disturbs nothing, what they render is accepted, and the operator
//! can go and come without harm to the pipelines.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use commerce_e2e::{
    cluster::{PIPELINES, PODS},
    environment::Environment,
    eventually::eventually,
    orders::{Order, Orders, new_user},
    pipeline::{name, restarts, uid},
    scenario::{Outcome, Scenario, scenario},
    tenant::Tenant,
};
use serde_json::{Value, json};

pub const OPERATOR_NAMESPACE: &str = "commerce-system";
const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/commercepipelines.commerce.lab";

#[tokio::test]
async fn an_upgrade_without_a_change_restarts_nothing() -> Outcome {
    scenario(async |s| {
        let environment = &s.cluster.environment;
        let (pods, crd) = (running(s).await?, crd_generation(s).await?);
        let generation = s.shop.object().await?["metadata"]["generation"].clone();
        for (release, namespace, chart) in [
            ("commerce-operator", OPERATOR_NAMESPACE, "commerce-operator"),
            ("stores", "shop", "dev-stores"),
        ] {
            let chart = environment.chart(chart);
            let arguments = [
                "upgrade",
                release,
                &chart,
                "-n",
                namespace,
                "--reuse-values",
                "--wait",
                "--timeout=2m",
            ];
            environment.helm(&arguments).await?;
        }
        s.shop.ready().await?;
        assert_eq!(
            running(s).await?,
            pods,
            "the same pods run, and none of their containers was restarted"
        );
        assert_eq!(crd_generation(s).await?, crd);
        assert_eq!(s.shop.object().await?["metadata"]["generation"], generation);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_api_server_accepts_what_the_charts_render() -> Outcome {
    scenario(async |s| {
        let environment = &s.cluster.environment;
        let pipeline = environment.chart("commerce-pipeline/examples/dev-stores.yaml");
        let large = environment.chart("commerce-pipeline/examples/operators.yaml");
        for (chart, more) in [
            ("commerce-operator", vec![]),
            ("commerce-operator", vec!["--set", "rbac.scope=namespace"]),
            ("dev-stores", vec![]),
            ("dev-stores", vec!["--set", "tls.enabled=true"]),
            ("k6", vec!["--set", "script=load"]),
            ("commerce-pipeline", vec!["-f", &pipeline]),
            ("commerce-pipeline", vec!["-f", &large]),
        ] {
            let path = environment.chart(chart);
            // Names that nothing in the cluster has.
            let arguments = [["template", "dry-run", &path, "-n", "shop"].as_slice(), &more].concat();
            let rendered = environment.helm(&arguments).await?;
            let dry_run = [
                "apply",
                "-n",
                "shop",
                "--dry-run=server",
                "--validate=strict",
                "-f",
                "-",
            ];
            let accepted = environment.run_with_input("kubectl", &dry_run, &rendered).await;
            accepted.with_context(|| format!("the chart {chart} with {more:?}"))?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pipelines_outlive_the_operator() -> Outcome {
    scenario(async |s| {
        let environment = s.cluster.environment.clone();
        let values = operator_values(&environment).await?;
        let orders = Orders::through_ingress(&s.cluster, None)?;
        // It has a finalizer and nothing else, as it never gets so far.
        let mut departed = Tenant::prepare(s, "departed").await?;
        departed.spec["kafka"]["bootstrapServers"] = json!("kafka:9092");
        departed.apply().await?;
        departed
            .pipeline
            .reaches("StoresReachable", "False", Duration::from_secs(30))
            .await?;
        let (pods, uid_before) = (pipeline_pods(s).await?, uid(&s.shop.object().await?).to_owned());
        s.afterwards(
            "installing the operator again",
            install_operator(environment.clone(), values.clone()),
        );

        let told = environment
            .helm(&[
                "uninstall",
                "commerce-operator",
                "-n",
                OPERATOR_NAMESPACE,
                "--wait",
            ])
            .await?;
        ensure!(
            told.contains("kept")
                && told.contains("[CustomResourceDefinition] commercepipelines.commerce.lab"),
            "helm does not tell that pipelines are kept: {told}"
        );
        crd_generation(s)
            .await
            .context("the definition of CommercePipeline is kept")?;
        eventually(
            "the operator's pods are gone",
            Duration::from_mins(1),
            async || {
                let left = operator_pods(s).await?;
                ensure!(
                    left.is_empty(),
                    "there are {:?}",
                    left.iter().map(name).collect::<Vec<_>>()
                );
                Ok(())
            },
        )
        .await?;
        assert_eq!(
            s.cluster.list(PIPELINES, "shop", "").await?.len(),
            1,
            "the pipeline is kept"
        );
        let user = new_user();
        let id = orders.place(&Order::of(&user)).await?;
        orders
            .finds(&user, std::slice::from_ref(&id), Duration::from_secs(5))
            .await?;

        let deleted = &departed.pipeline;
        deleted.delete().await?;
        let waits = deleted.object().await.context("it waits for an operator")?;
        ensure!(
            waits["metadata"]["deletionTimestamp"].is_string(),
            "it is not being deleted: {}",
            waits["metadata"]
        );

        install_operator(environment, values).await?;
        s.cluster
            .gone(
                PIPELINES,
                &deleted.namespace,
                &deleted.name,
                Duration::from_mins(1),
            )
            .await?;
        s.shop.ready().await?;
        assert_eq!(
            uid(&s.shop.object().await?),
            uid_before,
            "it is the same pipeline"
        );
        assert_eq!(pipeline_pods(s).await?, pods, "a new operator restarts no pod");
        Ok(())
    })
    .await
}

/// The values of the operator's release, as JSON.
pub async fn operator_values(environment: &Environment) -> Result<String> {
    let arguments = [
        "get",
        "values",
        "commerce-operator",
        "-n",
        OPERATOR_NAMESPACE,
        "-o",
        "json",
    ];
    environment.helm(&arguments).await
}

/// Installs the operator with these values, or upgrades it to them.
pub async fn install_operator(environment: Environment, values: String) -> Result<()> {
    let chart = environment.chart("commerce-operator");
    let namespace = OPERATOR_NAMESPACE;
    let arguments = [
        "upgrade",
        "--install",
        "commerce-operator",
        &chart,
        "-n",
        namespace,
        "-f",
        "-",
        "--wait",
        "--timeout=2m",
    ];
    environment
        .run_with_input("helm", &arguments, &values)
        .await
        .map(drop)
}

/// The pods of the operator.
pub async fn operator_pods(s: &Scenario) -> Result<Vec<Value>> {
    let selector = "app.kubernetes.io/name=commerce-operator";
    s.cluster.list(PODS, OPERATOR_NAMESPACE, selector).await
}

async fn crd_generation(s: &Scenario) -> Result<Value> {
    let crd = s
        .cluster
        .read(CRD)
        .await?
        .context("there is no definition of CommercePipeline")?;
    Ok(crd["metadata"]["generation"].clone())
}

/// Each pod of the operator, the stores and the pipeline, with its uid and how often its containers were restarted.
async fn running(s: &Scenario) -> Result<BTreeMap<String, (String, i64)>> {
    let mut pods = s.cluster.list(PODS, OPERATOR_NAMESPACE, "").await?;
    pods.extend(s.cluster.list(PODS, "shop", "").await?);
    Ok(by_name(&pods))
}

pub async fn pipeline_pods(s: &Scenario) -> Result<BTreeMap<String, (String, i64)>> {
    Ok(by_name(&s.shop.pods("").await?))
}

/// Each pod's uid, and how often its containers were restarted. One that is still ending, after a change made before, is not told:
/// it goes by itself.
pub fn by_name(pods: &[Value]) -> BTreeMap<String, (String, i64)> {
    pods.iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(|pod| (name(pod).to_owned(), (uid(pod).to_owned(), restarts(pod))))
        .collect()
}
