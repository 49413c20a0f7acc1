//! Plays the controllers and the kubelets: Jobs succeed at once, Deployments get pods that are ready at once, and the pods' admin
//! port answers as a relay and an indexer with nothing to do. It writes only when something has changed.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use axum::{Json, Router, routing::get};
use futures::TryStreamExt as _;
use k8s_openapi::{
    api::{apps::v1::Deployment, batch::v1::Job, core::v1::Pod},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

/// Address of all pods, where nobody else listens.
const POD: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);
/// Where the services serve their status.
const ADMIN_PORT: u16 = 9090;
const AT_ONCE: usize = 8;

/// Plays until it is dropped.
pub async fn play(client: &Client) -> Result<JoinSet<()>> {
    let address = SocketAddr::from((POD, ADMIN_PORT));
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}"))?;
    let mut playing = JoinSet::new();
    playing.spawn(async move {
        let router = Router::new().route("/status", get(async || Json(idle())));
        tell(axum::serve(listener, router).await);
    });
    let (jobs, deployments) = (client.clone(), client.clone());
    playing.spawn(async move { tell(finish_jobs(jobs).await) });
    playing.spawn(async move { tell(run_deployments(deployments).await) });
    Ok(playing)
}

fn tell<E: Into<anyhow::Error>>(ended: Result<(), E>) {
    use std::io::Write as _;
    if let Err(error) = ended {
        let _ = writeln!(std::io::stderr(), "playing the controllers: {:#}", error.into());
    }
}

/// `/status` of a relay and of an indexer in one.
fn idle() -> Value {
    json!({
        "state": "active", "backlog": 0, "oldestUnpublishedSeconds": 0.0, "parked": 0,
        "partitions": [{"topic": "order.created", "partition": 0, "lag": 0, "committed": 0}],
        "freshness": {"orders": 0},
    })
}

async fn finish_jobs(client: Client) -> Result<()> {
    let jobs = watcher(Api::<Job>::all(client.clone()), watcher::Config::default()).applied_objects();
    let done = |job: &Job| {
        job.status
            .as_ref()
            .is_some_and(|status| status.completion_time.is_some())
    };
    jobs.map_err(anyhow::Error::from)
        .try_for_each_concurrent(AT_ONCE, |job| {
            let client = &client;
            async move {
                if done(&job) {
                    return Ok(());
                }
                let now = Timestamp::from_second(Timestamp::now().as_second())?.to_string();
                let condition = |kind| json!({"type": kind, "status": "True", "lastTransitionTime": now});
                let status = json!({
                    "startTime": now, "completionTime": now, "succeeded": 1,
                    "conditions": [condition("SuccessCriteriaMet"), condition("Complete")],
                });
                set_status(&api::<Job>(client, &job), &job.name_any(), status).await
            }
        })
        .await
}

async fn run_deployments(client: Client) -> Result<()> {
    let all = Api::<Deployment>::all(client.clone());
    let deployments = watcher(all, watcher::Config::default()).applied_objects();
    let seen = |deployment: &Deployment| {
        let status = deployment.status.as_ref();
        status.and_then(|status| status.observed_generation) == deployment.metadata.generation
    };
    deployments
        .map_err(anyhow::Error::from)
        .try_for_each_concurrent(AT_ONCE, |deployment| {
            let client = &client;
            async move {
                if seen(&deployment) {
                    return Ok(());
                }
                run(client, &deployment).await
            }
        })
        .await
}

async fn run(client: &Client, deployment: &Deployment) -> Result<()> {
    let spec = deployment.spec.as_ref().context("a Deployment without spec")?;
    let replicas = spec.replicas.unwrap_or(1);
    let pods: Api<Pod> = api(client, deployment);
    for number in 0..replicas {
        let name = format!("{}-{number}", deployment.name_any());
        let mut pod: Pod = serde_json::from_value(serde_json::to_value(&spec.template)?)?;
        pod.metadata.name = Some(name.clone());
        pod.spec.get_or_insert_default().node_name = Some("bench".to_owned());
        match pods.create(&PostParams::default(), &pod).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            other => drop(other.with_context(|| format!("making pod {name}"))?),
        }
        let ready = json!({"type": "Ready", "status": "True"});
        let status = json!({
            "phase": "Running", "podIP": POD, "podIPs": [{"ip": POD}], "conditions": [ready],
        });
        set_status(&pods, &name, status).await?;
    }
    let status = json!({
        "observedGeneration": deployment.metadata.generation, "replicas": replicas,
        "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas,
    });
    set_status(
        &api::<Deployment>(client, deployment),
        &deployment.name_any(),
        status,
    )
    .await
}

fn api<K>(client: &Client, beside: &impl kube::ResourceExt) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), &beside.namespace().unwrap_or_default())
}

async fn set_status<K>(api: &Api<K>, name: &str, status: Value) -> Result<()>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let patch = Patch::Merge(json!({ "status": status }));
    api.patch_status(name, &PatchParams::default(), &patch)
        .await
        .with_context(|| format!("setting the status of {name}"))
        .map(drop)
}
