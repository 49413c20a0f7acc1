//! The end of a pipeline: what becomes of its data in each store, and when the resource is let go.

use commerce_operator::reconcile::names;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::{cluster::PIPELINE, world::World};

const NAMESPACE: &str = "/api/v1/namespaces/store";

/// What the status tells of each store.
fn progress(world: &World) -> Vec<String> {
    let pipeline = world.cluster.get(PIPELINE).unwrap();
    let told = |store: &Value| {
        let part = |name: &str| store[name].as_str().unwrap().to_owned();
        format!("{} {}: {}", part("store"), part("state"), part("message"))
    };
    let stores = pipeline["status"]["deletion"].as_array().unwrap();
    stores.iter().map(told).collect()
}

#[tokio::test]
async fn deletion_with_retain_touches_no_store() {
    let world = World::ready(&[]).await;
    world
        .stores
        .take_away(&["PostgreSQL", "Kafka", "Elasticsearch", "Redis"]);
    world.delete();
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
    world.delete();
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
    world.delete();
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
    assert_eq!(
        progress(&world),
        [
            "Kafka Waiting: no answer within 5 s",
            "Elasticsearch Removed: gone",
            "PostgreSQL Removed: gone"
        ]
    );
    world.pass().await.unwrap_err();
    assert_eq!(
        world.everything(),
        Vec::<String>::new(),
        "what is gone is not removed again, and nothing new is told"
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
    world.delete();
    world.pass().await.unwrap();
    assert_eq!(world.cluster.get(PIPELINE), None);
}

#[tokio::test]
async fn each_store_may_have_a_policy_of_its_own_and_one_with_retain_is_not_asked() {
    let world = World::ready(&[
        ("deletionPolicy", json!("Delete")),
        ("postgres/deletionPolicy", json!("Retain")),
    ])
    .await;
    world.stores.take_away(&["PostgreSQL", "Elasticsearch"]);
    world.delete();
    assert_eq!(world.pass().await.unwrap_err().reason(), "CleanupFailed");
    assert_eq!(
        progress(&world),
        [
            "Kafka Removed: gone",
            "Elasticsearch Waiting: no answer within 5 s",
            "PostgreSQL Retained: deletionPolicy: Retain"
        ]
    );
    world.stores.take_away(&["PostgreSQL"]);
    world.pass().await.unwrap();
    assert_eq!(world.cluster.get(PIPELINE), None);
    let held = world.stores.held();
    assert_eq!((held.schema, held.topics.len()), (1, 0));
    assert_eq!(held.index, commerce_core::index::Found::default());
}

#[tokio::test]
async fn one_store_can_be_cleaned_where_the_others_are_kept() {
    let world = World::ready(&[("elasticsearch/deletionPolicy", json!("Delete"))]).await;
    world.stores.take_away(&["PostgreSQL", "Kafka"]);
    world.delete();
    world.pass().await.unwrap();
    assert!(world.done().contains(&"remove index".to_owned()));
    assert_eq!(world.cluster.get(PIPELINE), None);
    assert_eq!(world.stores.held().topics.len(), 4);
}

/// The stores may go with the namespace, before the pipeline does.
#[tokio::test]
async fn in_a_namespace_that_is_being_deleted_a_store_is_waited_for_only_for_a_while() {
    let world = World::ready(&[("deletionPolicy", json!("Delete"))]).await;
    world.stores.take_away(&["Kafka"]);

    world.delete();
    world.pass().await.unwrap_err();
    world.pass().await.unwrap_err();

    world.cluster.edit(NAMESPACE, |namespace| {
        namespace["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    world.deleted_at(&Timestamp::now().to_string());
    world.pass().await.unwrap_err();

    world.delete();
    world.pass().await.unwrap();
    assert_eq!(world.cluster.get(PIPELINE), None);
    assert_eq!(world.stores.held().topics.len(), 4, "they are left");
}

/// Whether it may write says nothing about the store.
#[tokio::test]
async fn a_replica_that_may_not_write_gives_up_on_no_store() {
    let world = World::ready(&[("deletionPolicy", json!("Delete"))]).await;
    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["metadata"]["annotations"] = json!({ names::ABANDON: "true" });
    });
    world.context.tenure.until(None);
    world.delete();
    assert_eq!(world.pass().await.unwrap_err().reason(), "LeaseUncertain");
    assert!(world.cluster.get(PIPELINE).is_some());
}
