//! Deployments whose number of replicas is an autoscaler's: the operator does not apply the field, so that the two never
//! contend for it.
//!
//! A field that a manager no longer applies, and nobody else does, goes back to its default: one replica. So before the
//! operator lets go of it, the number that runs is applied in the name of another manager. The autoscaler's first change
//! takes it over from there.

use k8s_openapi::api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler};
use kube::{
    Api, Client, Resource as _, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{apply, build::Objects, error::Error, fetch::Live};

/// Field manager of the replicas that an autoscaler begins with.
pub const STARTER: &str = "commerce-operator-autoscaling";

/// Removes an autoscaler that is not asked for any more, before the operator chooses the number of replicas again.
pub async fn retire(client: &Client, objects: &Objects, live: &mut Live) -> Result<(), Error> {
    let wanted = objects.autoscaler.as_ref().map(ResourceExt::name_any);
    let keep = |name: &str| Some(name) == wanted.as_deref();
    apply::prune(client, &live.autoscalers, keep).await?;
    live.autoscalers.retain(|autoscaler| keep(&autoscaler.name_any()));
    Ok(())
}

/// Applies a Deployment. One that is left to an autoscaler has some replicas to begin with.
pub async fn apply(
    client: &Client,
    desired: &Deployment,
    live: &Live,
    autoscaler: Option<&HorizontalPodAutoscaler>,
) -> Result<Deployment, Error> {
    let name = desired.name_any();
    let found = live.deployments.iter().find(|live| live.name_any() == name);
    let scaled = autoscaler.filter(|_| desired.spec.as_ref().is_some_and(|spec| spec.replicas.is_none()));
    let first = scaled.and_then(|autoscaler| first(found, autoscaler, &live.autoscalers));
    match (first, found) {
        (None, _) => apply::apply(client, desired, &live.deployments).await,
        (Some(replicas), Some(_)) => {
            start(client, desired, replicas).await?;
            apply::apply(client, desired, &live.deployments).await
        }
        (Some(replicas), None) => {
            apply::apply(client, desired, &[]).await?;
            start(client, desired, replicas).await
        }
    }
}

/// The replicas to begin with; none where the autoscaler is at work.
fn first(
    found: Option<&Deployment>,
    autoscaler: &HorizontalPodAutoscaler,
    live: &[HorizontalPodAutoscaler],
) -> Option<i32> {
    let spec = autoscaler.spec.as_ref()?;
    let min = spec.min_replicas.unwrap_or(1);
    let Some(found) = found else { return Some(min) };
    let replicas = found.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    // An autoscaler leaves a Deployment with no replicas alone.
    let works = replicas > 0 && live.iter().any(|live| live.name_any() == autoscaler.name_any());
    (!works).then(|| replicas.clamp(min, spec.max_replicas.max(min)))
}

async fn start(client: &Client, desired: &Deployment, replicas: i32) -> Result<Deployment, Error> {
    let name = desired.name_any();
    let api: Api<Deployment> = Api::namespaced(client.clone(), &desired.namespace().unwrap_or_default());
    let body = json!({
        "apiVersion": Deployment::api_version(&()),
        "kind": Deployment::kind(&()),
        "metadata": { "name": name },
        "spec": { "replicas": replicas },
    });
    let params = PatchParams::apply(STARTER).force();
    let started = api.patch(&name, &params, &Patch::Apply(&body)).await;
    started.map_err(|source| Error::ApplyFailed {
        kind: Deployment::kind(&()).into_owned(),
        name,
        source,
    })
}
