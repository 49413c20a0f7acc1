//! A cluster with one pipeline, and stores, in memory.

use std::{sync::Arc, time::Duration};

use commerce_operator::{
    context::{Context, Settings},
    leader::Tenure,
    metrics::{CountRequests, Metrics},
    reconcile::{error::Error, reconcile},
};
use kube::runtime::{
    controller::Action,
    events::{Recorder, Reporter},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    cluster::{Cluster, PIPELINE},
    fixtures::{all_secrets, minimal, stored},
    services::FakeServices,
    stores::{FakeStores, Journal},
};

pub struct World {
    pub cluster: Cluster,
    pub stores: Arc<FakeStores>,
    pub services: Arc<FakeServices>,
    pub context: Context,
    journal: Journal,
    registry: Registry,
}

impl World {
    /// A cluster with a pipeline and its Secrets, and stores that answer.
    pub fn with(changes: &[(&str, Value)]) -> Self {
        let journal = Journal::default();
        let cluster = Cluster::new(journal.clone());
        cluster.put(PIPELINE, stored(&minimal(), changes));
        for (name, uid) in [("kube-system", "c1"), ("store", "n1")] {
            let metadata = json!({ "name": name, "uid": uid });
            cluster.put(
                &format!("/api/v1/namespaces/{name}"),
                json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }),
            );
        }
        for secret in all_secrets() {
            let path = format!(
                "/api/v1/namespaces/store/secrets/{}",
                secret.metadata.name.clone().unwrap()
            );
            cluster.put(&path, serde_json::to_value(secret).unwrap());
        }
        let stores = Arc::new(FakeStores::new(journal, cluster.faults.clone()));
        let services = Arc::new(FakeServices::new(cluster.faults.clone()));
        Self::of(cluster, stores, services)
    }

    /// An operator that works on these.
    pub fn of(cluster: Cluster, stores: Arc<FakeStores>, services: Arc<FakeServices>) -> Self {
        let (context, registry) = Self::operator(&cluster, &stores, &services);
        let journal = stores.journal.clone();
        Self {
            cluster,
            stores,
            services,
            context,
            journal,
            registry,
        }
    }

    fn operator(
        cluster: &Cluster,
        stores: &Arc<FakeStores>,
        services: &Arc<FakeServices>,
    ) -> (Context, Registry) {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let client = cluster.counted_client(&CountRequests(metrics.requests.clone()));
        let tenure = Tenure::default();
        tenure.until(Some(Instant::now() + Duration::from_hours(24)));
        let reporter = Reporter {
            controller: "commerce-operator".into(),
            instance: None,
        };
        let context = Context {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            namespaces: Vec::new(),
            tenure,
            stores: stores.clone(),
            services: services.clone(),
            settings: Settings {
                probe_interval: Duration::from_secs(30),
                drift_interval: Duration::from_mins(5),
            },
            memory: Arc::default(),
            metrics,
        };
        (context, registry)
    }

    /// Another operator takes over, which remembers nothing.
    pub fn restart_operator(&mut self) {
        (self.context, self.registry) = Self::operator(&self.cluster, &self.stores, &self.services);
    }

    /// What `/metrics` would answer.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        text
    }

    pub async fn pass(&self) -> Result<Action, Error> {
        Box::pin(reconcile("store", "shop", &self.context)).await
    }

    /// Deletes the pipeline, as `kubectl delete` does while a finalizer is there.
    pub fn delete(&self) {
        self.deleted_at("2026-01-01T00:00:00Z");
    }

    pub fn deleted_at(&self, time: &str) {
        self.cluster.edit(PIPELINE, |pipeline| {
            pipeline["metadata"]["deletionTimestamp"] = json!(time);
        });
    }

    /// What was written since the last call, without events, statuses and marks.
    pub fn done(&self) -> Vec<String> {
        let all = std::mem::take(&mut *self.journal.lock().unwrap());
        let told = |entry: &String| {
            entry.contains("mark ")
                || entry.starts_with("event ")
                || entry.starts_with("status ")
                || entry.contains(" events/")
        };
        all.into_iter().filter(|entry| !told(entry)).collect()
    }

    pub fn everything(&self) -> Vec<String> {
        std::mem::take(&mut *self.journal.lock().unwrap())
    }

    pub fn condition(&self, kind: &str) -> Value {
        let pipeline = self.cluster.get(PIPELINE).unwrap();
        let conditions = pipeline["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        conditions
            .into_iter()
            .find(|condition| condition["type"] == kind)
            .unwrap_or(Value::Null)
    }

    pub fn reason(&self, kind: &str) -> String {
        let condition = self.condition(kind);
        format!(
            "{} {}",
            condition["status"].as_str().unwrap_or_default(),
            condition["reason"].as_str().unwrap_or_default()
        )
    }

    /// Up to Ready.
    pub async fn ready(changes: &[(&str, Value)]) -> Self {
        let world = Self::with(changes);
        world.pass().await.unwrap();
        world.cluster.finish_jobs("Complete");
        world.pass().await.unwrap();
        world.cluster.start_pods();
        world.pass().await.unwrap();
        assert_eq!(world.reason("Ready"), "True Running");
        world.everything();
        world
    }
}
