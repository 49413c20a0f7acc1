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
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::DynamicObject;
use serde_json::Value;

use super::{
    kinds::Kind,
    names::{self, Component},
    validate::{Pipeline, Problem},
};
use crate::crd::Migrations;

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
        autoscaler: workload::autoscaler(pipeline),
        policies: policy::policies(pipeline),
        dashboards: monitoring::dashboards(pipeline),
        optional: monitoring::pod_monitor(pipeline)
            .into_iter()
            .chain(monitoring::rule(pipeline))
            .chain(network::route(pipeline))
            .collect(),
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
fn account(pipeline: &Pipeline) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(pipeline, &pipeline.name, "pipeline"),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

fn metadata(pipeline: &Pipeline, name: &str, component: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(pipeline.namespace.clone()),
        labels: Some(names::labels(&pipeline.name, component)),
        owner_references: Some(vec![pipeline.owner.clone()]),
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
