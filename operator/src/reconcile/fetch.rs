//! First station: the resource as it is now, the Secrets it refers to, and its children.

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{ControllerRevision, Deployment},
        autoscaling::v2::HorizontalPodAutoscaler,
        batch::v1::Job,
        core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount},
        networking::v1::{Ingress, NetworkPolicy},
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, CustomResourceExt as _, Resource, ResourceExt as _,
    api::{DynamicObject, ListParams},
};
use serde::de::DeserializeOwned;

use super::{
    error::Error,
    names,
    secrets::{Secrets, referenced},
};
use crate::crd::CommercePipeline;

/// What the cluster holds of one pipeline.
#[derive(Debug, Default)]
pub struct Observed {
    pub secrets: Secrets,
    pub live: Live,
}

/// The children that exist.
#[derive(Debug, Default)]
pub struct Live {
    pub accounts: Vec<ServiceAccount>,
    pub jobs: Vec<Job>,
    pub deployments: Vec<Deployment>,
    pub revisions: Vec<ControllerRevision>,
    pub services: Vec<Service>,
    pub budgets: Vec<PodDisruptionBudget>,
    pub ingresses: Vec<Ingress>,
    pub autoscalers: Vec<HorizontalPodAutoscaler>,
    pub policies: Vec<NetworkPolicy>,
    pub dashboards: Vec<ConfigMap>,
    pub pods: Vec<Pod>,
}

/// A resource as it was read.
#[derive(Debug)]
pub enum Read {
    Resource(Box<CommercePipeline>),
    Gone,
    /// It is not what the types say: it was stored under another version of the CRD.
    Unreadable(Box<DynamicObject>, String),
}

/// The resource as it is now.
pub async fn resource(client: &Client, namespace: &str, name: &str) -> Result<Read, Error> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), namespace, &CommercePipeline::api_resource());
    let found = api.get_opt(name).await.map_err(|source| Error::FetchFailed {
        what: "the pipeline",
        source,
    })?;
    let Some(object) = found else {
        return Ok(Read::Gone);
    };
    Ok(match object.clone().try_parse() {
        Ok(resource) => Read::Resource(Box::new(resource)),
        Err(error) => Read::Unreadable(Box::new(object), error.to_string()),
    })
}

/// What the cluster holds of a pipeline.
pub async fn observe(client: &Client, resource: &CommercePipeline) -> Result<Observed, Error> {
    let (secrets, live) = futures::try_join!(secrets(client, resource), Box::pin(live(client, resource)))?;
    Ok(Observed { secrets, live })
}

/// The Secrets that a pipeline refers to. One that does not exist is left out; what that means is for `validate` to say.
pub async fn secrets(client: &Client, resource: &CommercePipeline) -> Result<Secrets, Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &resource.namespace().unwrap_or_default());
    let names = referenced(&resource.spec);
    let found = futures::future::try_join_all(names.iter().map(|name| api.get_opt(name)))
        .await
        .map_err(|source| Error::FetchFailed {
            what: "the Secrets that the pipeline refers to",
            source,
        })?;
    Ok(Secrets::new(found.into_iter().flatten()))
}

/// The pods of a pipeline.
pub async fn pods(client: &Client, resource: &CommercePipeline) -> Result<Vec<Pod>, Error> {
    labelled(client, resource, "its pods").await
}

async fn live(client: &Client, resource: &CommercePipeline) -> Result<Live, Error> {
    let (
        accounts,
        jobs,
        deployments,
        revisions,
        services,
        budgets,
        ingresses,
        autoscalers,
        policies,
        dashboards,
        pods,
    ) = futures::try_join!(
        owned(client, resource, "its ServiceAccount"),
        owned(client, resource, "its Jobs"),
        owned(client, resource, "its Deployments"),
        owned(client, resource, "the revisions of its Deployments"),
        owned(client, resource, "its Services"),
        owned(client, resource, "its PodDisruptionBudgets"),
        owned(client, resource, "its Ingress"),
        owned(client, resource, "its HorizontalPodAutoscaler"),
        owned(client, resource, "its NetworkPolicies"),
        owned(client, resource, "its dashboards"),
        pods(client, resource),
    )?;
    Ok(Live {
        accounts,
        jobs,
        deployments,
        revisions,
        services,
        budgets,
        ingresses,
        autoscalers,
        policies,
        dashboards,
        pods,
    })
}

async fn owned<K>(client: &Client, resource: &CommercePipeline, what: &'static str) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let mut found: Vec<K> = labelled(client, resource, what).await?;
    found.retain(|child| is_of(child, resource));
    Ok(found)
}

fn is_of<K: Resource>(child: &K, resource: &CommercePipeline) -> bool {
    let uid = resource.metadata.uid.as_deref().unwrap_or_default();
    child.owner_references().iter().any(|owner| owner.uid == uid)
}

/// The pipeline's objects of a kind that the cluster may not have; none where it is gone by now.
pub async fn optional(
    api: &Api<DynamicObject>,
    resource: &CommercePipeline,
) -> Result<Vec<DynamicObject>, Error> {
    let params = ListParams::default().labels(&names::selector(&resource.name_any()));
    match api.list(&params).await {
        Ok(mut list) => {
            list.items.retain(|child| is_of(child, resource));
            Ok(list.items)
        }
        // Of a kind that it does not serve, the API server says so as plain text, without a reason.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(source) => Err(Error::FetchFailed {
            what: "how it is watched",
            source,
        }),
    }
}

async fn labelled<K>(
    client: &Client,
    resource: &CommercePipeline,
    what: &'static str,
) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), &resource.namespace().unwrap_or_default());
    let params = ListParams::default().labels(&names::selector(&resource.name_any()));
    let list = api
        .list(&params)
        .await
        .map_err(|source| Error::FetchFailed { what, source })?;
    Ok(list.items)
}
