//! One pass over one pipeline, a straight road: fetch → validate → build → prepare the stores → apply → status.
//!
//! Each station is a module. Fetch, apply and the stores talk to the outside; validate, build, health and status are pure.

pub mod apply;
mod around;
pub mod autoscaler;
pub mod build;
pub mod claims;
pub mod drift;
pub mod error;
pub mod events;
pub mod fetch;
pub mod finalizer;
pub mod flow;
pub mod health;
pub mod kinds;
pub mod lag;
pub mod marks;
pub mod names;
mod prepare;
mod quantity;
pub mod readiness;
mod reindex;
pub mod rollout;
pub mod secrets;
pub mod services;
pub mod status;
pub mod stores;
mod unreadable;
pub mod validate;

use std::time::Duration;

use k8s_openapi::{api::apps::v1::Deployment, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Client, ResourceExt,
    runtime::{controller::Action, events::Event},
};
use tokio::time::Instant;

use self::{
    build::Objects,
    error::{Error, Stop},
    fetch::{Live, Observed, Read},
    flow::Flow,
    kinds::{Kind, Served},
    lag::Load,
    names::Component,
    rollout::Step,
    status::Findings,
    validate::Pipeline,
};
use crate::{
    context::{Context, spread},
    crd::CommercePipeline,
};

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
            context.memory.is_ready(namespace, name, "False");
            return unreadable::report(&context.client, &object, problem).await;
        }
    };
    context.remember(&resource);
    if resource.metadata.deletion_timestamp.is_some() {
        return Box::pin(finalizer::finish(&resource, context)).await;
    }
    let mut findings = Findings {
        suspended: resource.spec.suspend,
        flow: resource.spec.suspend.then(Flow::suspended),
        ..Findings::default()
    };
    let result = if resource.spec.suspend {
        Ok(())
    } else {
        if !finalizer::is_held(&resource) && !finalizer::hold(&context.client, &resource).await? {
            // Nobody would remove what this pass would make in the stores.
            context.forget(&resource);
            return Ok(Action::await_change());
        }
        Box::pin(walk(&resource, context, &mut findings)).await
    };
    if let Err(stop) = &result
        && findings.stop.is_none()
    {
        findings.stop(None, stop);
    }
    // What a changed spec asks for is no drift.
    let carried_out = resource
        .status
        .as_ref()
        .and_then(|status| status.prepared_for.as_ref());
    if !findings.corrected.is_empty() && findings.prepared_for.as_ref() == carried_out {
        let note = format!("put right: {}", drift::list(&findings.corrected));
        let event = events::event(true, "DriftCorrected", status::DRIFT, &note);
        events::publish(&context.recorder, &resource, vec![event]).await;
    }
    let next = status::next(&resource, &findings, &now());
    let ready = next
        .conditions
        .iter()
        .find(|condition| condition.type_ == status::READY);
    let ready = ready.map_or("Unknown", |ready| ready.status.as_str());
    context.memory.is_ready(namespace, name, ready);
    let written = status::write(&context.client, &resource, &next).await;
    if written.is_err() {
        // What could not be told has to be found again.
        context.memory.overlook(&resource.uid().unwrap_or_default());
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
        Ok(()) if findings.again => Ok(Action::requeue(UNDER_WAY)),
        Ok(()) if findings.flow.as_ref().is_some_and(|flow| flow.unsettled) => {
            Ok(Action::requeue(spread(UNDER_WAY)))
        }
        Ok(()) => Ok(Action::requeue(context.settings.look_again())),
    }
}

/// The part of a pass that makes the pipeline, without telling about it: for a plan.
pub async fn rehearse(
    resource: &CommercePipeline,
    context: &Context,
    findings: &mut Findings,
) -> Result<(), Stop> {
    Box::pin(walk(resource, context, findings)).await
}

async fn walk(resource: &CommercePipeline, context: &Context, findings: &mut Findings) -> Result<(), Stop> {
    let observed = fetch::observe(&context.client, resource).await?;
    health_of(resource, &observed.live, findings);
    let (flow, load) = look(resource, &observed.live, context).await;
    findings.flow = Some(flow);
    let mut pipeline = match validate::validate(resource, &observed.secrets) {
        Ok(pipeline) => pipeline,
        Err(invalid) => {
            let live = keep(resource, observed.live, &context.client).await?;
            health_of(resource, &live, findings);
            return Err(invalid.into());
        }
    };
    let scaled = scale(resource, &mut pipeline, &observed.live, load, context, findings);
    let objects = build::objects(&pipeline);
    apply::apply(&context.client, &objects.account, &observed.live.accounts).await?;

    let before = resource
        .status
        .as_ref()
        .and_then(|status| status.prepared_for.as_ref());
    let policy = drift::policy(&pipeline, before);
    let prepared = prepare::prepare(
        resource, &pipeline, &objects, &observed, policy, context, findings,
    )
    .await;
    if prepared.is_ok() {
        findings.prepared_for = Some(pipeline.inputs.clone());
    } else if !rollout::has_begun(&observed.live.deployments, &observed.live.revisions) {
        return prepared;
    }
    // Until the steps before have succeeded for the new spec, the version that runs is kept in repair.
    let open = prepared.is_ok() || before == Some(&pipeline.inputs);
    let (live, behind) = workloads(&objects, observed, context, open).await?;
    findings.missing = Some(around::optional(resource, &objects, context).await?);
    if let Some(event) = scaled {
        events::publish(&context.recorder, resource, vec![event]).await;
    }
    health_of(resource, &live, findings);
    readiness::ask(context.services.as_ref(), &live.pods, &mut findings.components).await;
    for health in std::mem::take(&mut findings.components) {
        let waits = behind
            .iter()
            .find(|(component, _)| *component == health.component);
        findings.components.push(match waits {
            Some((_, first)) => health.behind(first),
            None => health,
        });
    }
    prepared
}

/// Keeps in repair what runs of a pipeline whose spec can't be built, and gives the children as they are then.
async fn keep(resource: &CommercePipeline, mut live: Live, client: &Client) -> Result<Live, Error> {
    if !rollout::has_begun(&live.deployments, &live.revisions) {
        return Ok(live);
    }
    let frame = build::frame(resource, &live.deployments);
    apply::apply(client, &frame.account, &live.accounts).await?;
    for service in &frame.services {
        apply::apply(client, service, &live.services).await?;
    }
    for budget in &frame.budgets {
        apply::apply(client, budget, &live.budgets).await?;
    }
    for desired in &frame.deployments {
        if let Some(kept) = rollout::keep(desired, &live.deployments, &live.revisions) {
            let applied = autoscaler::apply(client, &kept, &live, frame.autoscaler.as_ref()).await?;
            live.deployments
                .retain(|live| live.name_any() != applied.name_any());
            live.deployments.push(applied);
        }
    }
    Ok(live)
}

/// Components whose new version waits, and what for.
type Behind = Vec<(Component, &'static str)>;

/// Applies what runs, and gives the children as they are then. New versions wait while it is not `open` to them.
async fn workloads(
    objects: &Objects,
    observed: Observed,
    context: &Context,
    open: bool,
) -> Result<(Live, Behind), Error> {
    let client = &context.client;
    let mut live = observed.live;
    for service in &objects.services {
        apply::apply(client, service, &live.services).await?;
    }
    for budget in &objects.budgets {
        apply::apply(client, budget, &live.budgets).await?;
    }
    autoscaler::retire(client, objects, &mut live).await?;
    let (deployments, behind) = deployments(objects, &live, client, open).await?;
    let in_use = rollout::in_use(&deployments);
    apply::prune(client, &live.revisions, |name| {
        in_use.iter().any(|used| used == name)
    })
    .await?;
    live.deployments = deployments;
    around::apply(client, objects, &mut live).await?;
    Ok((live, behind))
}

/// Applies the Deployments, each version in its turn.
async fn deployments(
    objects: &Objects,
    live: &Live,
    client: &Client,
    open: bool,
) -> Result<(Vec<Deployment>, Behind), Error> {
    let first_time = !rollout::has_begun(&live.deployments, &live.revisions);
    let mut first = (!open).then_some("the steps before it");
    let (mut applied, mut behind) = (Vec::with_capacity(Component::ALL.len()), Behind::new());
    for (component, desired) in Component::ALL.into_iter().zip(&objects.deployments) {
        let step = rollout::step(desired, &live.deployments, &live.revisions, first.is_none());
        let deployment = match &step {
            Step::Now(revision) => {
                apply::apply(client, revision.as_ref(), &live.revisions).await?;
                Some(autoscaler::apply(client, desired, live, objects.autoscaler.as_ref()).await?)
            }
            Step::Later(kept) => {
                Some(autoscaler::apply(client, kept, live, objects.autoscaler.as_ref()).await?)
            }
            Step::Leave => {
                let name = desired.name_any();
                live.deployments
                    .iter()
                    .find(|live| live.name_any() == name)
                    .cloned()
            }
        };
        if let (false, Some(first)) = (matches!(step, Step::Now(_)), first) {
            behind.push((component, first));
        }
        // A first installation has nothing to protect.
        if first.is_none() && !first_time && !deployment.as_ref().is_some_and(health::has_rolled_out) {
            first = Some(component.as_str());
        }
        applied.extend(deployment);
    }
    Ok((applied, behind))
}

/// Asks the services how it goes.
async fn look(resource: &CommercePipeline, live: &Live, context: &Context) -> (Flow, Load) {
    let seen = services::ask(context.services.as_ref(), &live.pods).await;
    let uid = resource.uid().unwrap_or_default();
    context.memory.flow(&uid, |memory| {
        let now = Instant::now();
        let flow = flow::judge(resource, &seen, memory, now);
        (flow, Load::of(&seen, &memory.progress, now))
    })
}

/// Chooses the number of indexers, where the spec leaves it to the lag; gives an event where it changes.
fn scale(
    resource: &CommercePipeline,
    pipeline: &mut Pipeline,
    live: &Live,
    load: Load,
    context: &Context,
    findings: &mut Findings,
) -> Option<Event> {
    let mut scaling = pipeline.indexer.workload.scaling?;
    let name = build::child_name(&pipeline.name, Component::Indexer);
    let found = live.deployments.iter().find(|live| live.name_any() == name)?;
    let topics = resource.status.iter().flat_map(|status| &status.topics);
    if let Some(partitions) = topics.map(|topic| topic.partitions).max() {
        scaling.max = scaling.max.min(partitions).max(scaling.min);
    }
    let current = health::replicas(found);
    let settled = health::is_complete(found);
    let uid = resource.uid().unwrap_or_default();
    let (replicas, suspicious) = context.memory.flow(&uid, |memory| {
        let memory = &mut memory.scaling;
        let replicas = memory.decide(scaling, current, settled, load, Instant::now());
        (replicas, memory.is_suspicious())
    });
    pipeline.indexer.workload.replicas = Some(replicas);
    if let Some(flow) = &mut findings.flow {
        flow.unsettled |= suspicious;
    }
    let note = match load {
        Load::Behind { time, .. } => format!(
            "from {current} to {replicas} indexers: what waits in Kafka would take {} s",
            time.as_secs()
        ),
        Load::KeptUp => format!("from {current} to {replicas} indexers, which have kept up"),
        _ => format!("from {current} to {replicas} indexers, as indexer.autoscaling asks"),
    };
    (replicas != current).then(|| events::event(true, "IndexerScaled", "Scale", &note))
}

fn health_of(resource: &CommercePipeline, live: &Live, findings: &mut Findings) {
    let name = resource.name_any();
    let health = |component| health::component(&name, component, &live.deployments, &live.pods);
    findings.components = [Component::Api, Component::Relay, Component::Indexer]
        .map(health)
        .into();
    let kind = |missing: &[(Kind, Served)]| {
        let found = missing.iter().find(|(kind, _)| *kind == Kind::HttpRoute);
        found.map_or(Served::Yes, |(_, served)| served.clone())
    };
    let route = match (&resource.spec.api.gateway, findings.missing.as_deref().map(kind)) {
        (Some(route), Some(Served::Yes)) => Some(route),
        // Whether there is one is not known.
        (Some(_), None | Some(Served::Unknown(_))) => return,
        (Some(_), Some(Served::No)) | (None, _) => None,
    };
    let namespace = resource.namespace().unwrap_or_default();
    findings.url = Some(health::url(&name, &namespace, &live.ingresses, route));
}

fn now() -> Time {
    // Conditions hold whole seconds; a finer time would differ from the one that is read back.
    Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH))
}
