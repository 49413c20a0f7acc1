//! One `CommercePipeline` of the cluster.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::Value;

use crate::{
    cluster::{Cluster, DEPLOYMENTS, Kind, OWNED, PIPELINES, PODS},
    eventually::eventually,
};

/// The conditions of a pipeline that is not suspended, `Ready` first.
pub const CONDITIONS: [&str; 8] = [
    "Ready",
    "StoresReachable",
    "SchemaReady",
    "TopicsReady",
    "IndexReady",
    "ApiAvailable",
    "RelayAvailable",
    "IndexerAvailable",
];

/// How long a pipeline may take from its creation, or from a disturbance, to being ready: pods start on a busy machine.
pub const READY: Duration = Duration::from_secs(150);

/// A pipeline by its name.
#[derive(Debug, Clone)]
pub struct Pipeline {
    pub cluster: Cluster,
    pub namespace: String,
    pub name: String,
}

impl Pipeline {
    #[must_use]
    pub fn new(cluster: &Cluster, namespace: &str, name: &str) -> Self {
        Self {
            cluster: cluster.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The one that `make up` applied.
    #[must_use]
    pub fn shop(cluster: &Cluster) -> Self {
        Self::new(cluster, "shop", "shop")
    }

    pub async fn object(&self) -> Result<Value> {
        self.cluster.get(PIPELINES, &self.namespace, &self.name).await
    }

    pub async fn conditions(&self) -> Result<Vec<Condition>> {
        let object = self.object().await?;
        let conditions = object
            .pointer("/status/conditions")
            .cloned()
            .context("it has no conditions yet")?;
        serde_json::from_value(conditions).context("reading the conditions")
    }

    pub async fn condition(&self, name: &str) -> Result<Condition> {
        let conditions = self.conditions().await?;
        conditions
            .into_iter()
            .find(|c| c.type_ == name)
            .with_context(|| format!("it has no condition {name}"))
    }

    /// Waits until the spec as it is now has been carried out.
    pub async fn ready(&self) -> Result<()> {
        self.ready_within(READY).await
    }

    pub async fn ready_within(&self, bound: Duration) -> Result<()> {
        eventually(&format!("{} is ready", self.name), bound, async || {
            let generation = self
                .object()
                .await?
                .pointer("/metadata/generation")
                .and_then(Value::as_i64);
            let ready = self.condition("Ready").await?;
            ensure!(
                ready.observed_generation == generation,
                "Ready speaks of another generation than {generation:?}"
            );
            ensure!(
                ready.status == "True",
                "Ready is {}: {}: {}",
                ready.status,
                ready.reason,
                ready.message
            );
            Ok(())
        })
        .await
    }

    /// Waits until a condition has that status, and gives it.
    pub async fn reaches(&self, condition: &str, status: &str, bound: Duration) -> Result<Condition> {
        eventually(
            &format!("{condition} of {} becomes {status}", self.name),
            bound,
            async || {
                let found = self.condition(condition).await?;
                ensure!(
                    found.status == status,
                    "it is {}: {}: {}",
                    found.status,
                    found.reason,
                    found.message
                );
                Ok(found)
            },
        )
        .await
    }

    /// Every object that the pipeline owns, with its kind.
    pub async fn owned(&self) -> Result<Vec<(Kind, Value)>> {
        let uid = self.object().await?["metadata"]["uid"].clone();
        let mut owned = Vec::new();
        for kind in OWNED {
            for object in self.cluster.list(kind, &self.namespace, "").await? {
                let owners = object
                    .pointer("/metadata/ownerReferences")
                    .and_then(Value::as_array);
                if owners.is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == uid)) {
                    owned.push((kind, object));
                }
            }
        }
        Ok(owned)
    }

    /// The pods of one component, or of all where it is empty; migration pods are never among them.
    pub async fn pods(&self, component: &str) -> Result<Vec<Value>> {
        let selector = match component {
            "" => format!("app.kubernetes.io/instance={}", self.name),
            _ => format!(
                "app.kubernetes.io/instance={},app.kubernetes.io/component={component}",
                self.name
            ),
        };
        let pods = self.cluster.list(PODS, &self.namespace, &selector).await?;
        Ok(pods
            .into_iter()
            .filter(|pod| pod.pointer("/metadata/labels/pod-template-hash").is_some())
            .collect())
    }

    /// The uids of its pods, or of one component's.
    pub async fn pod_uids(&self, component: &str) -> Result<BTreeSet<String>> {
        let pods = self.pods(component).await?;
        Ok(pods.iter().map(|pod| uid(pod).to_owned()).collect())
    }

    /// That nothing which people may read who may not read Secrets shows one of `secrets`: neither the pipeline nor the Deployments
    /// and pods of its namespace, the events and the logs of its pods.
    pub async fn keeps_quiet_about(&self, secrets: &[String]) -> Result<()> {
        let mut places = vec![("the pipeline".to_owned(), self.object().await?.to_string())];
        for kind in [DEPLOYMENTS, PODS] {
            let part = "app.kubernetes.io/part-of=commerce-pipeline";
            for object in self.cluster.list(kind, &self.namespace, part).await? {
                let place = format!("{} of the {}", name(&object), kind.plural);
                places.push((place, object.to_string()));
            }
        }
        for pod in self.pods("").await? {
            let logs = ["logs", "-n", &self.namespace, name(&pod)];
            let log = self.cluster.environment.kubectl(&logs).await?;
            places.push((format!("the log of {}", name(&pod)), log));
        }
        let events = format!("/apis/events.k8s.io/v1/namespaces/{}/events", self.namespace);
        let events = self.cluster.read(&events).await?.context("there are no events")?;
        places.push(("the events".to_owned(), events.to_string()));
        for (place, text) in places {
            ensure!(
                !secrets.iter().any(|secret| text.contains(secret)),
                "{place} shows a secret"
            );
        }
        Ok(())
    }

    pub async fn delete(&self) -> Result<()> {
        self.cluster.delete(PIPELINES, &self.namespace, &self.name).await
    }
}

/// The name of an object.
#[must_use]
pub fn name(object: &Value) -> &str {
    object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The uid of an object: another object of the same name has another one.
#[must_use]
pub fn uid(object: &Value) -> &str {
    object
        .pointer("/metadata/uid")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// How often the containers of a pod were restarted.
#[must_use]
pub fn restarts(pod: &Value) -> i64 {
    let containers = pod.pointer("/status/containerStatuses").and_then(Value::as_array);
    containers
        .into_iter()
        .flatten()
        .filter_map(|container| container["restartCount"].as_i64())
        .sum()
}
