//! One pass over one pipeline, a straight road: fetch → validate → build → prepare the stores → apply → status.
//!
//! Each station is a module. Fetch, apply and the stores talk to the outside; validate, build, health and status are pure.

pub mod apply;
pub mod build;
pub mod error;
pub mod events;
pub mod fetch;
pub mod finalizer;
pub mod health;
pub mod names;
mod prepare;
pub mod secrets;
pub mod status;
pub mod stores;
mod unreadable;
pub mod validate;

use std::time::Duration;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{ResourceExt, runtime::controller::Action};

use self::{
    build::Objects,
    error::{Error, Stop},
    fetch::{Live, Observed, Read},
    names::Component,
    status::Findings,
};
use crate::{context::Context, crd::CommercePipeline};

/// How soon to look again at what is under way: a pod that can't start changes neither its Job nor its Deployment.
const UNDER_WAY: Duration = Duration::from_secs(5);
/// How soon a cleanup looks again whether the pods are gone.
const RETRY_CLEANUP: Duration = Duration::from_secs(2);

/// One pass over the pipeline of this name.
pub async fn reconcile(namespace: &str, name: &str, context: &Context) -> Result<Action, Error> {
    let resource = match fetch::resource(&context.client, namespace, name).await? {
        Read::Resource(resource) => *resource,
        Read::Gone => {
            context.forget_name(namespace, name);
            return Ok(Action::await_change());
        }
        Read::Unreadable(object, problem) => {
            return unreadable::report(&context.client, &object, problem).await;
        }
    };
    context.remember(&resource);
    if resource.metadata.deletion_timestamp.is_some() {
        return Box::pin(finalizer::finish(&resource, context)).await;
    }
    let mut findings = Findings {
        suspended: resource.spec.suspend,
        ..Findings::default()
    };
    let result = if resource.spec.suspend {
        Ok(())
    } else {
        if !finalizer::is_held(&resource) && !finalizer::hold(&context.client, &resource).await? {
            // Deleted before it was held: nobody would remove what this pass would make in the stores.
            return Ok(Action::await_change());
        }
        Box::pin(walk(&resource, context, &mut findings)).await
    };
    if let Err(stop) = &result
        && findings.stop.is_none()
    {
        findings.stop(None, stop);
    }
    let next = status::next(&resource, &findings, &now());
    let written = status::write(&context.client, &resource, &next).await;
    if written.is_err() {
        // What this pass has found and could not tell must be found again.
        context
            .memory
            .overlook(resource.metadata.uid.as_deref().unwrap_or_default());
    }
    if written? {
        events::publish(
            &context.recorder,
            &resource,
            events::changes(resource.status.as_ref(), &next),
        )
        .await;
    }
    match result {
        Err(Stop::Failed(error)) => Err(error),
        Err(Stop::Waiting { .. }) => Ok(Action::requeue(UNDER_WAY)),
        Ok(()) if findings.components.iter().any(|health| health.rolling) => Ok(Action::requeue(UNDER_WAY)),
        Ok(()) => Ok(Action::requeue(context.settings.look_again())),
    }
}

/// The part of a pass that makes the pipeline, without telling about it: for a plan.
pub async fn rehearse(resource: &CommercePipeline, context: &Context) -> Result<(), Stop> {
    Box::pin(walk(resource, context, &mut Findings::default())).await
}

async fn walk(resource: &CommercePipeline, context: &Context, findings: &mut Findings) -> Result<(), Stop> {
    let observed = fetch::observe(&context.client, resource).await?;
    health_of(resource, &observed.live, findings);
    let pipeline = validate::validate(resource, &observed.secrets)?;
    let objects = build::objects(&pipeline);
    apply::apply(&context.client, &objects.account, &observed.live.accounts).await?;

    let prepared = prepare::prepare(&pipeline, &objects, &observed, context, findings).await;
    let before = resource
        .status
        .as_ref()
        .and_then(|status| status.prepared_for.as_ref());
    if prepared.is_ok() {
        findings.prepared_for = Some(pipeline.inputs.clone());
    } else if before != Some(&pipeline.inputs) {
        // What runs now goes on as it is until the steps before it have succeeded for the new spec.
        return prepared;
    }
    let live = workloads(&objects, observed, context).await?;
    health_of(resource, &live, findings);
    prepared
}

/// Applies what runs, and gives the children as they are then.
async fn workloads(objects: &Objects, observed: Observed, context: &Context) -> Result<Live, Error> {
    let client = &context.client;
    let mut live = observed.live;
    for service in &objects.services {
        apply::apply(client, service, &live.services).await?;
    }
    for budget in &objects.budgets {
        apply::apply(client, budget, &live.budgets).await?;
    }
    let mut deployments = Vec::with_capacity(objects.deployments.len());
    for deployment in &objects.deployments {
        deployments.push(apply::apply(client, deployment, &live.deployments).await?);
    }
    live.deployments = deployments;
    let wanted = objects.ingress.as_ref().map(ResourceExt::name_any);
    apply::prune(client, &live.ingresses, |name| Some(name) == wanted.as_deref()).await?;
    live.ingresses = match &objects.ingress {
        Some(ingress) => vec![apply::apply(client, ingress, &live.ingresses).await?],
        None => Vec::new(),
    };
    Ok(live)
}

fn health_of(resource: &CommercePipeline, live: &Live, findings: &mut Findings) {
    let name = resource.name_any();
    let health = |component| health::component(&name, component, &live.deployments, &live.pods);
    findings.components = [Component::Api, Component::Relay, Component::Indexer]
        .map(health)
        .into();
    findings.url = Some(health::url(
        &name,
        &resource.namespace().unwrap_or_default(),
        &live.ingresses,
    ));
}

fn now() -> Time {
    // Conditions hold whole seconds; a finer time would differ from the one that is read back.
    Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH))
}
