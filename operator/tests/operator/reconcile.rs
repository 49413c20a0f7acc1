//! Whole passes against a cluster and stores in memory.

use std::{sync::Arc, time::Duration};

use commerce_operator::{
    context::{Context, Settings},
    metrics::Metrics,
    reconcile::{error::Error, names, reconcile},
};
use kube::runtime::{
    controller::Action,
    events::{Recorder, Reporter},
};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, PIPELINE},
    fixtures::{all_secrets, minimal, stored},
    stores::{FakeStores, Journal},
};

const API: &str = "/apis/apps/v1/namespaces/store/deployments/shop-api";

pub struct World {
    pub cluster: Cluster,
    pub stores: Arc<FakeStores>,
    pub context: Context,
    journal: Journal,
}

impl World {
    /// A cluster with a pipeline and its Secrets, and stores that answer.
    pub fn with(changes: &[(&str, Value)]) -> Self {
        let journal = Journal::default();
        let cluster = Cluster::new(journal.clone());
        cluster.put(PIPELINE, stored(&minimal(), changes));
        for secret in all_secrets() {
            let path = format!(
                "/api/v1/namespaces/store/secrets/{}",
                secret.metadata.name.clone().unwrap()
            );
            cluster.put(&path, serde_json::to_value(secret).unwrap());
        }
        let stores = Arc::new(FakeStores::new(journal, cluster.faults.clone()));
        Self::of(cluster, stores)
    }

    /// An operator that works on these.
    pub fn of(cluster: Cluster, stores: Arc<FakeStores>) -> Self {
        let context = Self::operator(&cluster, &stores);
        let journal = stores.journal.clone();
        Self {
            cluster,
            stores,
            context,
            journal,
        }
    }

    fn operator(cluster: &Cluster, stores: &Arc<FakeStores>) -> Context {
        let client = cluster.client();
        let reporter = Reporter {
            controller: "commerce-operator".into(),
            instance: None,
        };
        Context {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            stores: stores.clone(),
            settings: Settings {
                probe_interval: Duration::from_secs(30),
                drift_interval: Duration::from_mins(5),
            },
            memory: Arc::default(),
            metrics: Metrics::new(&mut Registry::default()),
        }
    }

    /// Another operator takes over, which remembers nothing.
    pub fn restart_operator(&mut self) {
        self.context = Self::operator(&self.cluster, &self.stores);
    }

    pub async fn pass(&self) -> Result<Action, Error> {
        Box::pin(reconcile("store", "shop", &self.context)).await
    }

    /// What was written since the last call, without events and statuses.
    fn done(&self) -> Vec<String> {
        let all = std::mem::take(&mut *self.journal.lock().unwrap());
        let told = |entry: &String| {
            entry.starts_with("event ") || entry.starts_with("status ") || entry.contains(" events/")
        };
        all.into_iter().filter(|entry| !told(entry)).collect()
    }

    fn everything(&self) -> Vec<String> {
        std::mem::take(&mut *self.journal.lock().unwrap())
    }

    fn condition(&self, kind: &str) -> Value {
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

    fn reason(&self, kind: &str) -> String {
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

#[tokio::test]
async fn a_new_pipeline_is_brought_up_step_by_step() {
    let world = World::with(&[]);
    world.pass().await.unwrap();
    let job = world.cluster.paths("/jobs/").pop().unwrap();
    let job = job.rsplit('/').next().unwrap();
    assert_eq!(
        world.done(),
        [
            "apply commercepipelines/shop",
            "apply serviceaccounts/shop",
            &format!("apply jobs/{job}")
        ],
        "nothing runs before the schema is there"
    );
    assert_eq!(world.reason("StoresReachable"), "True Reachable");
    assert_eq!(world.reason("SchemaReady"), "False Migrating");
    assert_eq!(world.reason("TopicsReady"), "Unknown NotReached");

    world.cluster.finish_jobs("Complete");
    world.pass().await.unwrap();
    let done = world.done();
    assert_eq!(&done[..2], ["topics", "index"]);
    let deployments: Vec<_> = done
        .iter()
        .filter(|entry| entry.contains("deployments"))
        .collect();
    assert_eq!(
        deployments,
        [
            "apply deployments/shop-indexer",
            "apply deployments/shop-relay",
            "apply deployments/shop-api"
        ]
    );
    assert_eq!(world.reason("Ready"), "False Starting");

    world.cluster.start_pods();
    world.pass().await.unwrap();
    assert_eq!(world.reason("Ready"), "True Running");
    let status = &world.cluster.get(PIPELINE).unwrap()["status"];
    assert_eq!(
        status["index"],
        json!({ "alias": "orders", "active": "orders-0a1b2c3d-1" })
    );
    assert_eq!(
        status["topics"],
        json!([{ "name": "order.created", "partitions": 6 }])
    );
    assert_eq!(status["url"], "http://shop-api.store.svc");
}

#[tokio::test]
async fn a_pass_without_changes_writes_nothing_even_after_a_restart() {
    let mut world = World::ready(&[]).await;
    world.pass().await.unwrap();
    assert_eq!(world.everything(), Vec::<String>::new());
    world.restart_operator();
    world.pass().await.unwrap();
    assert_eq!(
        world.everything(),
        ["topics", "index"],
        "it looks at the stores again, and writes nothing to the cluster"
    );
}

#[tokio::test]
async fn an_edited_or_deleted_child_is_put_back_and_nothing_else_touched() {
    let world = World::ready(&[]).await;
    world
        .cluster
        .edit(API, |deployment| deployment["spec"]["replicas"] = json!(7));
    world.pass().await.unwrap();
    assert_eq!(world.done(), ["apply deployments/shop-api"]);
    assert_eq!(world.cluster.get(API).unwrap()["spec"]["replicas"], 2);

    let service = "/api/v1/namespaces/store/services/shop-api";
    world.cluster.remove(service);
    world.pass().await.unwrap();
    assert_eq!(world.done(), ["apply services/shop-api"]);
}

#[tokio::test]
async fn an_ingress_that_is_not_asked_for_any_more_is_removed() {
    let world = World::ready(&[("api/ingress", json!({ "host": "orders.example.com" }))]).await;
    assert_eq!(
        world.cluster.get(PIPELINE).unwrap()["status"]["url"],
        "http://orders.example.com"
    );
    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["spec"]["api"].as_object_mut().unwrap().remove("ingress");
        pipeline["metadata"]["generation"] = json!(2);
    });
    world.pass().await.unwrap();
    assert!(world.done().contains(&"delete ingresses/shop".to_owned()));
}

#[tokio::test]
async fn a_store_that_is_away_is_named_and_nothing_is_begun() {
    let world = World::with(&[]);
    world.stores.take_away(&["Redis", "Kafka"]);
    let error = world.pass().await.unwrap_err();
    assert_eq!(error.reason(), "StoresUnreachable");
    assert_eq!(world.reason("StoresReachable"), "False StoresUnreachable");
    let message = world.condition("Ready")["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("Redis (spec): no answer") && message.contains("Kafka (spec): no answer"),
        "{message}"
    );
    assert_eq!(world.cluster.paths("/jobs/"), Vec::<String>::new());

    world.stores.take_away(&[]);
    world.pass().await.unwrap();
    assert_eq!(world.reason("StoresReachable"), "True Reachable");
}

#[tokio::test]
async fn while_a_store_is_away_what_runs_is_kept_in_repair_but_nothing_new_is_rolled_out() {
    let mut world = World::ready(&[]).await;
    world.restart_operator();
    world.stores.take_away(&["Elasticsearch"]);
    world.cluster.remove(API);
    world.pass().await.unwrap_err();
    assert_eq!(world.done(), ["apply deployments/shop-api"]);

    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["spec"]["image"]["tag"] = json!("2.0.0");
        pipeline["metadata"]["generation"] = json!(2);
    });
    world.pass().await.unwrap_err();
    assert_eq!(world.done(), Vec::<String>::new());
    assert_eq!(world.reason("Ready"), "False StoresUnreachable");
}

#[tokio::test]
async fn a_new_image_migrates_first_and_a_failed_migration_leaves_the_old_version() {
    let world = World::ready(&[]).await;
    let image = |world: &World| {
        world.cluster.get(API).unwrap()["spec"]["template"]["spec"]["containers"][0]["image"].clone()
    };
    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["spec"]["image"]["tag"] = json!("2.0.0");
        pipeline["metadata"]["generation"] = json!(2);
    });
    world.pass().await.unwrap();
    assert_eq!(world.reason("SchemaReady"), "False Migrating");
    assert_eq!(world.cluster.paths("/jobs/").len(), 2);
    for path in world.cluster.paths("/jobs/") {
        world.cluster.edit(&path, |job| {
            if job["status"].is_null() {
                job["status"] = json!({ "conditions": [{ "type": "Failed", "status": "True" }] });
            }
        });
    }
    let error = world.pass().await.unwrap_err();
    assert_eq!(error.reason(), "MigrationFailed");
    assert!(
        error.to_string().contains("delete the Job to try again"),
        "{error}"
    );
    assert_eq!(image(&world), "ghcr.io/example/commerce-api:1.2.3");

    world.cluster.finish_jobs("Complete");
    world.pass().await.unwrap();
    assert_eq!(image(&world), "ghcr.io/example/commerce-api:2.0.0");
    assert_eq!(
        world.cluster.paths("/jobs/").len(),
        1,
        "the Job of the old image is gone"
    );
}

#[tokio::test]
async fn manual_migrations_are_waited_for() {
    let world = World::with(&[("postgres/migrations", json!("Manual"))]);
    *world.stores.schema.lock().unwrap() = (1, 2);
    world.pass().await.unwrap();
    assert_eq!(world.reason("SchemaReady"), "False WaitingForMigration");
    assert_eq!(world.cluster.paths("/jobs/"), Vec::<String>::new());
    *world.stores.schema.lock().unwrap() = (2, 2);
    world.pass().await.unwrap();
    assert_eq!(world.reason("SchemaReady"), "True Migrated");
}

#[tokio::test]
async fn an_index_with_another_mapping_stops_the_rollout() {
    let world = World::with(&[("postgres/migrations", json!("Manual"))]);
    *world.stores.index.lock().unwrap() = commerce_core::index::IndexState::MappingDiffers {
        active: "orders-aaaa-1".into(),
        wanted: "orders-bbbb-1".into(),
    };
    assert_eq!(world.pass().await.unwrap_err().reason(), "IndexFailed");
    assert_eq!(world.reason("TopicsReady"), "True Created");
    assert_eq!(world.reason("IndexReady"), "False IndexFailed");
    assert_eq!(world.cluster.paths("/deployments/"), Vec::<String>::new());
}

#[tokio::test]
async fn a_missing_secret_is_named_in_the_condition() {
    let world = World::with(&[]);
    world.cluster.remove("/api/v1/namespaces/store/secrets/pg");
    assert_eq!(world.pass().await.unwrap_err().reason(), "SecretMissing");
    assert_eq!(world.reason("Ready"), "False SecretMissing");
    let referrers = world.context.memory.referrers("store", "pg");
    assert_eq!(referrers.len(), 1, "the Secret's appearance wakes the pipeline");
}

#[tokio::test]
async fn a_suspended_pipeline_is_left_alone() {
    let world = World::ready(&[]).await;
    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["spec"]["suspend"] = json!(true);
        pipeline["spec"]["api"]["replicas"] = json!(5);
        pipeline["metadata"]["generation"] = json!(2);
    });
    world.cluster.remove("/api/v1/namespaces/store/services/shop-api");
    world.pass().await.unwrap();
    assert_eq!(world.done(), Vec::<String>::new());
    assert_eq!(world.reason("Suspended"), "True Suspended");
    assert_eq!(
        world.cluster.get(PIPELINE).unwrap()["status"]["observedGeneration"],
        2
    );
}

fn delete(world: &World) {
    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
}

#[tokio::test]
async fn deletion_with_retain_touches_no_store() {
    let world = World::ready(&[]).await;
    world
        .stores
        .take_away(&["PostgreSQL", "Kafka", "Elasticsearch", "Redis"]);
    delete(&world);
    world.pass().await.unwrap();
    assert_eq!(
        world.everything(),
        ["apply commercepipelines/shop"],
        "the finalizer is taken off"
    );
    assert_eq!(world.cluster.get(PIPELINE), None);
}

#[tokio::test]
async fn deletion_with_delete_stops_the_pods_first_and_then_removes_everything() {
    let world = World::ready(&[("deletionPolicy", json!("Delete"))]).await;
    let pod = "/api/v1/namespaces/store/pods/shop-api-x";
    world.cluster.put(
        pod,
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "shop-api-x" } }),
    );
    delete(&world);
    world.pass().await.unwrap();
    assert!(world.done().iter().all(|entry| entry.starts_with("delete ")));
    assert_eq!(world.reason("Ready"), "False Deleting");

    world.cluster.remove(pod);
    world.pass().await.unwrap();
    assert_eq!(
        world.done(),
        [
            "remove topics",
            "remove index",
            "remove schema",
            "apply commercepipelines/shop"
        ]
    );
    assert_eq!(world.cluster.get(PIPELINE), None);
}

#[tokio::test]
async fn deletion_waits_for_a_store_that_is_away_until_it_is_abandoned() {
    let world = World::ready(&[("deletionPolicy", json!("Delete"))]).await;
    world.stores.take_away(&["Kafka"]);
    delete(&world);
    let error = world.pass().await.unwrap_err();
    assert_eq!(error.reason(), "CleanupFailed");
    let message = world.condition("Ready")["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("the topics in Kafka") && message.contains(names::ABANDON),
        "{message}"
    );
    assert!(
        world.done().contains(&"remove schema".to_owned()),
        "the others are not held up"
    );

    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["metadata"]["annotations"] = json!({ names::ABANDON: "true" });
    });
    world.pass().await.unwrap();
    assert!(
        world
            .everything()
            .iter()
            .any(|entry| entry.starts_with("event Abandoned"))
    );
    assert_eq!(world.cluster.get(PIPELINE), None);
}

#[tokio::test]
async fn deletion_ends_when_the_secrets_are_gone() {
    let world = World::ready(&[("deletionPolicy", json!("Delete"))]).await;
    world.cluster.remove("/api/v1/namespaces/store/secrets/pg");
    delete(&world);
    world.pass().await.unwrap();
    assert_eq!(world.cluster.get(PIPELINE), None);
}

#[tokio::test]
async fn a_pipeline_that_can_not_be_read_gets_a_condition_and_can_be_deleted() {
    let world = World::with(&[]);
    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["spec"]["postgres"] = json!("a string");
        pipeline["metadata"]["finalizers"] = json!([names::FINALIZER]);
    });
    assert_eq!(world.pass().await.unwrap_err().reason(), "Unreadable");
    assert_eq!(world.reason("Ready"), "False Unreadable");
    world.everything();
    world.pass().await.unwrap_err();
    assert_eq!(world.everything(), Vec::<String>::new(), "it is told once");
    delete(&world);
    world.pass().await.unwrap();
    assert_eq!(world.cluster.get(PIPELINE), None);
}
