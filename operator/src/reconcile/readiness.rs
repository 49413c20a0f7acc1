//! Why a pod that runs is not ready: its own `/readyz` names each check and what it found. The kubelet knows only that the probe fails.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde::Deserialize;

use super::{
    health::Health,
    names::Component,
    services::{Services, running},
};

/// Longest list of checks that ends up in a condition.
const EXCERPT: usize = 300;

/// `/readyz` of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Readiness {
    pub ready: bool,
    /// By what is checked.
    pub checks: BTreeMap<String, Check>,
}

/// One check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Check {
    pub ready: bool,
    pub message: Option<String>,
}

/// Asks a pod of each component that is rolling and has one that runs and is not ready.
pub async fn ask(services: &dyn Services, pods: &[Pod], components: &mut [Health]) {
    let rolling = components.iter_mut().filter(|health| health.rolling);
    let asked = rolling.filter_map(|health| {
        let (pod, address) = unready(pods, health.component)?;
        Some(async move {
            if let Some(why) = why(services.readiness(address).await) {
                health.add(&format!("pod {pod} is not ready: {why}"));
            }
        })
    });
    futures::future::join_all(asked).await;
}

/// Name and address of a pod whose containers run, and that is not ready.
fn unready(pods: &[Pod], component: Component) -> Option<(String, IpAddr)> {
    let is_unready = |name: &str| {
        let pod = pods.iter().find(|pod| pod.name_any() == name);
        pod.and_then(|pod| pod.status.as_ref()).is_some_and(|status| {
            let containers = status.container_statuses.iter().flatten();
            let mut states = containers.map(|container| container.state.as_ref());
            let ready = |condition: &&k8s_openapi::api::core::v1::PodCondition| condition.type_ == "Ready";
            let ready = status.conditions.iter().flatten().find(ready);
            states.all(|state| state.is_some_and(|state| state.running.is_some()))
                && ready.is_some_and(|ready| ready.status != "True")
        })
    };
    running(pods, component).find(|(name, _)| is_unready(name))
}

/// What fails; nothing where all passes, which the kubelet has not seen yet.
fn why(readiness: Result<Readiness, String>) -> Option<String> {
    let readiness = match readiness {
        Ok(readiness) => readiness,
        Err(problem) => return Some(format!("/readyz can't be asked, {problem}")),
    };
    let failing = readiness.checks.iter().filter(|(_, check)| !check.ready);
    let each = failing.map(|(name, check)| match &check.message {
        Some(message) => format!("{name}: {message}"),
        None => name.clone(),
    });
    let list = each.collect::<Vec<_>>().join(", ");
    (!readiness.ready && !list.is_empty()).then(|| list.chars().take(EXCERPT).collect())
}
