//! Third station: from a [`Pipeline`] to the Kubernetes objects that it consists of.
//!
//! Pure: the same pipeline always gives the same objects, so tests compare them with golden files. A change here that
//! touches a pod template restarts the pods of every pipeline when the operator is upgraded; the golden files show it.

mod environment;
mod migrate;
mod network;
mod pod;
mod policy;
mod workload;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        batch::v1::Job,
        core::v1::{Service, ServiceAccount},
        networking::v1::{Ingress, NetworkPolicy},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    names::{self, Component},
    validate::Pipeline,
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
    /// None where they are off.
    pub policies: Vec<NetworkPolicy>,
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
        policies: policy::policies(pipeline),
    }
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
