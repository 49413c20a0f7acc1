//! The Kubernetes API, its objects as plain JSON.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::TryFutureExt as _;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    error::Status,
};
use serde_json::{Value, json};

use crate::{environment::Environment, eventually::eventually};

/// One kind of object, by its place in the API.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    group_version: &'static str,
    pub plural: &'static str,
}

const fn kind(group_version: &'static str, plural: &'static str) -> Kind {
    Kind {
        group_version,
        plural,
    }
}

pub const PIPELINES: Kind = kind("apis/commerce.lab/v1alpha1", "commercepipelines");
pub const DEPLOYMENTS: Kind = kind("apis/apps/v1", "deployments");
pub const STATEFUL_SETS: Kind = kind("apis/apps/v1", "statefulsets");
pub const CONTROLLER_REVISIONS: Kind = kind("apis/apps/v1", "controllerrevisions");
pub const LEASES: Kind = kind("apis/coordination.k8s.io/v1", "leases");
pub const JOBS: Kind = kind("apis/batch/v1", "jobs");
pub const INGRESSES: Kind = kind("apis/networking.k8s.io/v1", "ingresses");
pub const HTTP_ROUTES: Kind = kind("apis/gateway.networking.k8s.io/v1", "httproutes");
pub const NETWORK_POLICIES: Kind = kind("apis/networking.k8s.io/v1", "networkpolicies");
pub const HORIZONTAL_POD_AUTOSCALERS: Kind = kind("apis/autoscaling/v2", "horizontalpodautoscalers");
pub const DISRUPTION_BUDGETS: Kind = kind("apis/policy/v1", "poddisruptionbudgets");
pub const SERVICES: Kind = kind("api/v1", "services");
pub const SERVICE_ACCOUNTS: Kind = kind("api/v1", "serviceaccounts");
pub const CONFIG_MAPS: Kind = kind("api/v1", "configmaps");
pub const SECRETS: Kind = kind("api/v1", "secrets");
pub const PODS: Kind = kind("api/v1", "pods");
/// Of the Prometheus Operator, which the cluster does not have.
pub const POD_MONITORS: Kind = kind("apis/monitoring.coreos.com/v1", "podmonitors");

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// The kinds of which a pipeline owns objects.
pub const OWNED: [Kind; 11] = [
    DEPLOYMENTS,
    CONTROLLER_REVISIONS,
    JOBS,
    INGRESSES,
    HTTP_ROUTES,
    NETWORK_POLICIES,
    HORIZONTAL_POD_AUTOSCALERS,
    DISRUPTION_BUDGETS,
    SERVICES,
    SERVICE_ACCOUNTS,
    CONFIG_MAPS,
];

impl Kind {
    fn path(self, namespace: &str) -> String {
        format!("/{}/namespaces/{namespace}/{}", self.group_version, self.plural)
    }
}

/// The cluster that `make up` made.
#[derive(Clone)]
pub struct Cluster {
    pub environment: Environment,
    client: Client,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("environment", &self.environment)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Connects, and makes sure that somebody answers.
    pub async fn connect() -> Result<Self> {
        let environment = Environment::find().await?;
        let hint = format!(
            "no cluster answers at {}: run `make up` first",
            environment.kubeconfig
        );
        let client = client(&environment).and_then(|client| async {
            client.apiserver_version().await?;
            Ok(client)
        });
        let client = client.await.context(hint)?;
        Ok(Self { environment, client })
    }

    /// One object, or `None` where there is none of that name.
    pub async fn find(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<Value>> {
        self.read(&format!("{}/{name}", kind.path(namespace))).await
    }

    /// One object that has to be there.
    pub async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Value> {
        let found = self.find(kind, namespace, name).await?;
        found.with_context(|| format!("there is no {name} among the {} of {namespace}", kind.plural))
    }

    /// All objects of a kind in a namespace that carry the labels of `selector` (empty: all).
    pub async fn list(&self, kind: Kind, namespace: &str, selector: &str) -> Result<Vec<Value>> {
        let selector = selector
            .replace('=', "%3D")
            .replace(',', "%2C")
            .replace('/', "%2F");
        let found = self
            .read(&format!("{}?labelSelector={selector}", kind.path(namespace)))
            .await?;
        let items = found.as_ref().and_then(|list| list["items"].as_array()).cloned();
        items.with_context(|| format!("listing the {} of {namespace}: no list was answered", kind.plural))
    }

    /// What an address of the API answers, or `None` for 404.
    pub async fn read(&self, path: &str) -> Result<Option<Value>> {
        match self.call("GET", path, None).await {
            Ok(found) => Ok(Some(found)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {path}")),
        }
    }

    pub async fn create(&self, kind: Kind, namespace: &str, object: &Value) -> Result<Value> {
        let created = self.call("POST", &kind.path(namespace), Some(object)).await;
        // Not the whole object, which may be a Secret.
        created.with_context(|| {
            format!(
                "creating {} of the {} of {namespace}",
                object["metadata"]["name"], kind.plural
            )
        })
    }

    /// Whether the API server would take the object, unknown fields refused; nothing is stored.
    pub async fn would_refuse(
        &self,
        kind: Kind,
        namespace: &str,
        object: &Value,
    ) -> Result<Option<Box<Status>>> {
        let path = format!("{}?dryRun=All&fieldValidation=Strict", kind.path(namespace));
        refusal(self.call("POST", &path, Some(object)).await)
    }

    /// Whether the API server would take a change (a JSON merge patch); nothing is stored.
    pub async fn would_refuse_change(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        change: &Value,
    ) -> Result<Option<Box<Status>>> {
        let path = format!(
            "{}/{name}?dryRun=All&fieldValidation=Strict",
            kind.path(namespace)
        );
        refusal(self.call("PATCH", &path, Some(change)).await)
    }

    /// Changes an object by a JSON merge patch.
    pub async fn change(&self, kind: Kind, namespace: &str, name: &str, change: &Value) -> Result<Value> {
        let changed = self
            .call("PATCH", &format!("{}/{name}", kind.path(namespace)), Some(change))
            .await;
        changed.with_context(|| {
            format!(
                "changing {name} of the {} of {namespace} by {change}",
                kind.plural
            )
        })
    }

    /// Asks for an object's deletion; one that is gone already is fine.
    pub async fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<()> {
        self.delete_path(&format!("{}/{name}", kind.path(namespace)))
            .await
    }

    /// Waits until an object is gone.
    pub async fn gone(&self, kind: Kind, namespace: &str, name: &str, bound: Duration) -> Result<()> {
        eventually(
            &format!("{name} of the {} of {namespace} is gone", kind.plural),
            bound,
            async || match self.find(kind, namespace, name).await? {
                None => Ok(()),
                Some(left) => anyhow::bail!("it is there: {}", left["metadata"]),
            },
        )
        .await
    }

    /// Defines a kind, whose objects may hold whatever they like.
    pub async fn define(&self, kind: Kind, name: &str) -> Result<()> {
        let (group, version) = kind
            .group_version
            .trim_start_matches("apis/")
            .split_once('/')
            .unwrap_or_default();
        let schema =
            json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {
                "name": format!("{}.{group}", kind.plural),
                "annotations": {"api-approved.kubernetes.io": "unapproved, a test's"},
            },
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {"kind": name, "plural": kind.plural},
                "versions": [{"name": version, "served": true, "storage": true, "schema": schema}],
            },
        });
        let created = self.call("POST", DEFINITIONS, Some(&definition)).await;
        created
            .map(drop)
            .with_context(|| format!("defining the kind {name}"))
    }

    /// Takes a kind away, with all its objects.
    pub async fn undefine(&self, kind: Kind) -> Result<()> {
        let group = kind.group_version.split('/').nth(1).unwrap_or_default();
        self.delete_path(&format!("{DEFINITIONS}/{}.{group}", kind.plural))
            .await
    }

    pub async fn create_namespace(&self, name: &str) -> Result<()> {
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let metadata = json!({"name": name, "labels": labels});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
        let created = self.call("POST", "/api/v1/namespaces", Some(&namespace)).await;
        created
            .map(drop)
            .with_context(|| format!("creating the namespace {name}"))
    }

    /// Deletes a namespace and waits until it is gone.
    pub async fn delete_namespace(&self, name: &str, bound: Duration) -> Result<()> {
        let path = format!("/api/v1/namespaces/{name}");
        self.delete_path(&path).await?;
        eventually(
            &format!("the namespace {name} is gone"),
            bound,
            async || match self.read(&path).await? {
                None => Ok(()),
                Some(left) => anyhow::bail!("its status: {}", left["status"]),
            },
        )
        .await
    }

    async fn delete_path(&self, path: &str) -> Result<()> {
        match self.call("DELETE", path, None).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error).with_context(|| format!("deleting {path}")),
        }
    }

    async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> kube::Result<Value> {
        let content = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content);
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        self.client
            .request(request.body(body).map_err(kube::Error::HttpError)?)
            .await
    }
}

async fn client(environment: &Environment) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(&environment.kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(Duration::from_secs(5));
    Ok(Client::try_from(config)?)
}

fn refusal(answer: kube::Result<Value>) -> Result<Option<Box<Status>>> {
    match answer {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) => Ok(Some(status)),
        Err(error) => Err(error).context("asking the API server to judge a spec"),
    }
}
