//! Third station: from a [`Pipeline`] to the Kubernetes objects that it consists of.
//!
//! Pure: the same pipeline always gives the same objects, so tests compare them with golden files. A change here that
//! touches a pod template restarts the pods of every pipeline when the operator is upgraded; the golden files show it.

mod environment;
mod migrate;
mod monitoring;
mod network;
mod overrides;
mod pod;
mod policy;
mod reindex;
mod workload;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        autoscaling::v2::HorizontalPodAutoscaler,
        batch::v1::Job,
        core::v1::{ConfigMap, Service, ServiceAccount},
        networking::v1::{Ingress, NetworkPolicy},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Resource as _, ResourceExt as _, api::DynamicObject};
use serde_json::Value;

pub use self::reindex::{COMPONENT as REINDEX, job as reindex};
use super::{
    health,
    kinds::Kind,
    names::{self, Component},
    validate::{self, Pipeline, Problem},
};
use crate::crd::{CommercePipeline, Migrations};

/// The objects of one pipeline.
#[derive(Clone, Debug)]
pub struct Objects {
    pub account: ServiceAccount,
    /// Absent where somebody else migrates the schema.
    pub migration: Option<Job>,
    /// In the order of [`Component::ALL`].
    pub deployments: Vec<Deployment>,
    pub services: Vec<Service>,
    pub budgets: Vec<PodDisruptionBudget>,
    pub ingress: Option<Ingress>,
    /// Of the API, where one is asked for.
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    /// None where they are off.
    pub policies: Vec<NetworkPolicy>,
    pub dashboards: Option<ConfigMap>,
    /// Of kinds that the cluster may not have.
    pub optional: Vec<(Kind, DynamicObject)>,
}

/// The objects that a pipeline consists of.
#[must_use]
pub fn objects(pipeline: &Pipeline) -> Objects {
    Objects {
        account: account(pipeline),
        migration: (pipeline.postgres.migrations == Migrations::Auto).then(|| migrate::job(pipeline)),
        deployments: Component::ALL
            .map(|component| workload::deployment(pipeline, component))
            .to_vec(),
        services: Component::ALL
            .map(|component| network::service(pipeline, component))
            .to_vec(),
        budgets: Component::ALL
            .map(|component| workload::budget(pipeline, component))
            .to_vec(),
        ingress: network::ingress(pipeline),
        autoscaler: workload::autoscaler(pipeline, &pipeline.api),
        policies: policy::policies(pipeline),
        dashboards: monitoring::dashboards(pipeline),
        optional: monitoring::pod_monitor(pipeline)
            .into_iter()
            .chain(monitoring::rule(pipeline))
            .chain(network::route(pipeline))
            .collect(),
    }
}

/// The objects that look the same whatever runs in the pods: what is kept in repair while the spec can't be built.
#[derive(Clone, Debug)]
pub struct Frame {
    pub account: ServiceAccount,
    /// Without pods. One is missing where its number of replicas can't be told.
    pub deployments: Vec<Deployment>,
    pub services: Vec<Service>,
    pub budgets: Vec<PodDisruptionBudget>,
    pub autoscaler: Option<HorizontalPodAutoscaler>,
}

/// The frame of a pipeline, whose Deployments are at present as in `live`.
#[must_use]
pub fn frame(resource: &CommercePipeline, live: &[Deployment]) -> Frame {
    let owner = resource.controller_owner_ref(&()).unwrap_or_default();
    let (name, namespace) = (resource.name_any(), resource.namespace().unwrap_or_default());
    let whose = Identity {
        name: &name,
        namespace: &namespace,
        owner: &owner,
    };
    let api = validate::api(&resource.spec.api).ok();
    let relay = validate::relay(&resource.spec.relay).ok();
    let mut indexer = validate::indexer(&resource.spec.indexer).ok();
    if let Some(indexer) = indexer
        .as_mut()
        .filter(|indexer| indexer.workload.scaling.is_some())
    {
        let name = child_name(&name, Component::Indexer);
        if let Some(found) = live.iter().find(|live| live.name_any() == name) {
            indexer.workload.replicas = Some(health::replicas(found));
        }
    }
    let deployment = |component| {
        let workload = match component {
            Component::Api => api.as_ref(),
            Component::Relay => relay.as_ref().map(|relay| &relay.workload),
            Component::Indexer => indexer.as_ref().map(|indexer| &indexer.workload),
        };
        Some(workload::without_pods(whose, component, workload?))
    };
    Frame {
        account: account(whose),
        deployments: Component::ALL.into_iter().filter_map(deployment).collect(),
        services: Component::ALL
            .map(|component| network::service(whose, component))
            .to_vec(),
        budgets: Component::ALL
            .map(|component| workload::budget(whose, component))
            .to_vec(),
        autoscaler: api.as_ref().and_then(|api| workload::autoscaler(whose, api)),
    }
}

/// Whose the objects are.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    name: &'a str,
    namespace: &'a str,
    owner: &'a OwnerReference,
}

impl<'a> From<&'a Pipeline> for Identity<'a> {
    fn from(pipeline: &'a Pipeline) -> Self {
        Self {
            name: &pipeline.name,
            namespace: &pipeline.namespace,
            owner: &pipeline.owner,
        }
    }
}

/// What the spec adds to the pods and must not, since the operator relies on it.
#[must_use]
pub fn conflicts(pipeline: &Pipeline) -> Vec<Problem> {
    let of = |component: Component| {
        let field = match component {
            Component::Api => "api.podTemplate",
            Component::Relay => "relay.podTemplate",
            Component::Indexer => "indexer.podTemplate",
        };
        let before = workload::template(pipeline, component);
        let added = pipeline.workload(component).template.as_ref();
        let after = overrides::merge(before.clone(), added);
        let problem = move |path: String| Problem::Template {
            field,
            problem: format!("it changes {path}, which the operator relies on: remove that"),
        };
        let found = overrides::conflicts(component, &before, &after);
        found.into_iter().map(problem).collect::<Vec<_>>()
    };
    Component::ALL.into_iter().flat_map(of).collect()
}

/// Name of a component's Deployment, Service and disruption budget.
#[must_use]
pub fn child_name(pipeline: &str, component: Component) -> String {
    format!("{pipeline}-{}", component.as_str())
}

/// The pods of a pipeline run under an account of their own, without rights and without a token.
fn account<'a>(whose: impl Into<Identity<'a>>) -> ServiceAccount {
    let whose = whose.into();
    ServiceAccount {
        metadata: metadata(whose, whose.name, "pipeline"),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

fn metadata<'a>(whose: impl Into<Identity<'a>>, name: &str, component: &str) -> ObjectMeta {
    let whose = whose.into();
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(whose.namespace.to_owned()),
        labels: Some(names::labels(whose.name, component)),
        owner_references: Some(vec![whose.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// An object of a kind that the cluster may not have.
fn object(
    pipeline: &Pipeline,
    kind: Kind,
    component: &str,
    labels: &BTreeMap<String, String>,
    spec: Value,
) -> DynamicObject {
    let mut metadata = metadata(pipeline, &pipeline.name, component);
    add(metadata.labels.get_or_insert_default(), labels);
    DynamicObject {
        types: Some(kind.types()),
        metadata,
        data: Value::Object([("spec".to_owned(), spec)].into_iter().collect()),
    }
}

/// The operator's own labels are how it finds its objects again.
fn add(labels: &mut BTreeMap<String, String>, more: &BTreeMap<String, String>) {
    for (name, value) in more {
        labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
}
