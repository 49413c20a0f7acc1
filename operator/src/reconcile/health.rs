//! What the live objects say about a component: how many replicas are ready, and if not all, why. Pure.

use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{ContainerStatus, Pod},
    networking::v1::Ingress,
};
use kube::ResourceExt as _;

use super::{
    names::{Component, ENOUGH, pod_labels},
    status::Finding,
};
use crate::crd::{ComponentStatus, GatewaySpec};

/// Longest excerpt of a container's log that ends up in a condition.
const EXCERPT: usize = 300;

/// One component as it runs.
#[derive(Clone, Debug)]
pub struct Health {
    pub component: Component,
    pub finding: Finding,
    pub status: ComponentStatus,
    /// Replicas of an older version still run, or new ones are not ready.
    pub rolling: bool,
}

/// How a component does, by its Deployment and pods.
#[must_use]
pub fn component(pipeline: &str, component: Component, deployments: &[Deployment], pods: &[Pod]) -> Health {
    let name = super::build::child_name(pipeline, component);
    let labels = pod_labels(pipeline, component.as_str());
    let selector = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",");
    let Some(deployment) = deployments
        .iter()
        .find(|deployment| deployment.name_any() == name)
    else {
        let finding = Finding::unknown(
            "NotReached",
            format!("{} waits for the steps before it", component.as_str()),
        );
        let status = ComponentStatus {
            replicas: 0,
            ready: 0,
            selector: Some(selector),
        };
        return Health {
            component,
            finding,
            status,
            rolling: true,
        };
    };
    let wanted = replicas(deployment);
    let status = deployment.status.clone().unwrap_or_default();
    let (total, ready) = (status.replicas.unwrap_or(0), status.ready_replicas.unwrap_or(0));
    let (updated, available) = (
        status.updated_replicas.unwrap_or(0),
        status.available_replicas.unwrap_or(0),
    );
    let rolling = !has_rolled_out(deployment);
    let stuck = status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "Progressing" && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
    });
    let trouble = if rolling || available < wanted {
        trouble(pods, component.as_str())
    } else {
        None
    };
    let because = trouble
        .as_ref()
        .map(|trouble| format!("; {trouble}"))
        .unwrap_or_default();
    let finding = if wanted == 0 && !rolling {
        Finding::yes(
            "ScaledToZero",
            format!("no replica of {} is asked for", component.as_str()),
        )
    } else if !rolling {
        Finding::yes(
            "Available",
            format!("{available} of {wanted} replicas are ready{because}"),
        )
    } else if available >= wanted && wanted > 0 {
        let reason = if stuck || trouble.is_some() {
            "RolloutStuck"
        } else {
            "RollingOut"
        };
        Finding::yes(
            reason,
            format!(
                "{available} replicas are ready, {} of {wanted} of this version{because}",
                updated.min(available)
            ),
        )
    } else if stuck || trouble.is_some() {
        Finding::no(
            "ReplicasUnavailable",
            format!("{available} of {wanted} replicas are ready{because}"),
        )
    } else {
        Finding::no("Starting", format!("{available} of {wanted} replicas are ready"))
    };
    Health {
        component,
        finding,
        status: ComponentStatus {
            replicas: total,
            ready,
            selector: Some(selector),
        },
        rolling,
    }
}

/// Whether all replicas that are asked for (where their number changes by itself: as many as are enough) are of the version
/// that is asked for and ready, and no other one is left.
#[must_use]
pub fn has_rolled_out(deployment: &Deployment) -> bool {
    let all = replicas(deployment);
    let enough = deployment.annotations().get(ENOUGH);
    let enough = enough.and_then(|enough| enough.parse().ok());
    has(deployment, enough.map_or(all, |enough: i32| enough.min(all)))
}

/// Whether all replicas that are asked for, however many, are of the version that is asked for and ready.
#[must_use]
pub fn is_complete(deployment: &Deployment) -> bool {
    has(deployment, replicas(deployment))
}

fn has(deployment: &Deployment, wanted: i32) -> bool {
    let Some(status) = &deployment.status else {
        return false;
    };
    let count = |replicas: Option<i32>| replicas.unwrap_or(0);
    let updated = count(status.updated_replicas);
    status.observed_generation >= deployment.metadata.generation
        && updated >= wanted
        && count(status.replicas) <= updated
        && count(status.available_replicas) >= wanted
}

/// How many replicas are asked for.
#[must_use]
pub fn replicas(deployment: &Deployment) -> i32 {
    deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

impl Health {
    /// Tells more in the message.
    pub fn add(&mut self, more: &str) {
        self.finding.message = format!("{}; {more}", self.finding.message);
    }

    /// The same, where the component keeps the version before until `first` is done.
    #[must_use]
    pub fn behind(mut self, first: &str) -> Self {
        self.rolling = true;
        if self.finding.is_true() {
            let message = format!("{}; its new version waits for {first}", self.finding.message);
            self.finding = Finding::yes("RolloutWaiting", message);
        }
        self
    }
}

/// How a Job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    Running,
    Succeeded,
    Failed,
}

/// How a Job stands.
#[must_use]
pub fn job(job: &Job) -> JobState {
    let holds = |kind: &str| {
        let conditions = job
            .status
            .iter()
            .filter_map(|status| status.conditions.as_ref())
            .flatten();
        conditions
            .into_iter()
            .any(|condition| condition.type_ == kind && condition.status == "True")
    };
    match (holds("Complete"), holds("Failed")) {
        (true, _) => JobState::Succeeded,
        (_, true) => JobState::Failed,
        _ => JobState::Running,
    }
}

/// Whether a Job failed because it was of no use to try again.
#[must_use]
pub fn gave_up(job: &Job) -> bool {
    let conditions = job.status.iter().filter_map(|status| status.conditions.as_ref());
    conditions.flatten().any(|condition| {
        condition.type_ == "Failed" && condition.reason.as_deref() == Some("PodFailurePolicy")
    })
}

/// What keeps a pod of a component from being ready, if it says so: the pod's name, the reason and the end of its log.
#[must_use]
pub fn trouble(pods: &[Pod], component: &str) -> Option<String> {
    pods.iter()
        .filter(|pod| is_of(pod, component))
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .find_map(|pod| {
            let status = pod.status.as_ref()?;
            let unschedulable = status.conditions.iter().flatten().find(|condition| {
                condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("Unschedulable")
            });
            let why = if let Some(condition) = unschedulable {
                let message = condition.message.as_deref().unwrap_or("no node has room");
                format!("Unschedulable: {message}")
            } else {
                let first = status.init_container_statuses.iter().flatten();
                let then = status.container_statuses.iter().flatten();
                first.chain(then).find_map(container_trouble)?
            };
            Some(format!("pod {}: {why}", pod.name_any()))
        })
}

/// Whether a pod is one of a component.
#[must_use]
pub fn is_of(pod: &Pod, component: &str) -> bool {
    let label = pod.labels().get("app.kubernetes.io/component");
    label.is_some_and(|name| name == component)
}

fn container_trouble(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        if matches!(reason, "ContainerCreating" | "PodInitializing" | "") {
            return None;
        }
        let last = container
            .last_state
            .as_ref()
            .and_then(|last| last.terminated.as_ref());
        let message = last
            .and_then(|last| last.message.as_deref())
            .or(waiting.message.as_deref());
        return Some(format!("{reason}: {}", excerpt(message.unwrap_or_default())));
    }
    let terminated = state
        .terminated
        .as_ref()
        .filter(|terminated| terminated.exit_code != 0)?;
    let reason = terminated.reason.as_deref().unwrap_or("Error");
    Some(format!(
        "{reason}, exit code {}: {}",
        terminated.exit_code,
        excerpt(terminated.message.as_deref().unwrap_or_default())
    ))
}

/// The last line, cut to a length that fits a condition.
fn excerpt(log: &str) -> String {
    let line = log
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no message")
        .trim();
    line.chars().take(EXCERPT).collect()
}

/// Address of the REST API: the Ingress if there is one with an address, else the first host name of the route, else the
/// Service.
#[must_use]
pub fn url(pipeline: &str, namespace: &str, ingresses: &[Ingress], route: Option<&GatewaySpec>) -> String {
    let service = || {
        let name = super::build::child_name(pipeline, Component::Api);
        format!("http://{name}.{namespace}.svc")
    };
    let ingress = ingresses.first().and_then(address);
    ingress
        .or_else(|| route.and_then(hostname))
        .unwrap_or_else(service)
}

fn address(ingress: &Ingress) -> Option<String> {
    let spec = ingress.spec.as_ref();
    let host = spec
        .and_then(|spec| spec.rules.as_ref()?.first()?.host.clone())
        .or_else(|| {
            let address = ingress
                .status
                .as_ref()?
                .load_balancer
                .as_ref()?
                .ingress
                .as_ref()?
                .first()?;
            address.hostname.clone().or_else(|| address.ip.clone())
        })?;
    let tls = spec.is_some_and(|spec| spec.tls.as_ref().is_some_and(|tls| !tls.is_empty()));
    Some(format!("{}://{host}", if tls { "https" } else { "http" }))
}

/// A route does not say whether its Gateway encrypts; the name of the listener, where it is given, usually does.
fn hostname(route: &GatewaySpec) -> Option<String> {
    let host = route.hostnames.iter().find(|host| !host.starts_with('*'))?;
    let mut listeners = route.parent_refs.iter().filter_map(|of| of.section_name.as_ref());
    let tls = listeners.any(|listener| listener.starts_with("https"));
    Some(format!("{}://{host}", if tls { "https" } else { "http" }))
}
