//! Whole passes against a cluster and stores in memory.

use commerce_core::index::{Found, IndexSpec};
use commerce_operator::reconcile::{
    names::{self, Component},
    services::RelayStatus,
};
use http::StatusCode;
use serde_json::json;

use crate::{cluster::PIPELINE, services::active, world::World};

const API: &str = "/apis/apps/v1/namespaces/store/deployments/shop-api";

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
        json!({ "alias": "orders", "active": IndexSpec::new("orders").wanted_index(), "documents": 0 })
    );
    assert_eq!(
        status["topics"][0],
        json!({ "name": "order.created", "partitions": 6 })
    );
    assert_eq!(status["topics"].as_array().unwrap().len(), 4);
    assert_eq!(world.reason("DriftDetected"), "False InSync");
    assert_eq!(status["url"], "http://shop-api.store.svc");
}

#[tokio::test]
async fn a_pass_without_changes_writes_nothing_even_after_a_restart() {
    let mut world = World::ready(&[]).await;
    world.pass().await.unwrap();
    assert_eq!(world.everything(), Vec::<String>::new());
    world.restart_operator();
    world.pass().await.unwrap();
    assert_eq!(world.everything(), Vec::<String>::new());
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
    for _ in Component::ALL {
        world.pass().await.unwrap();
        world.cluster.start_pods();
    }
    assert_eq!(image(&world), "ghcr.io/example/commerce-api:2.0.0");
    assert_eq!(
        world.cluster.paths("/jobs/").len(),
        1,
        "the Job of the old image is gone"
    );
}

#[tokio::test]
async fn an_image_that_is_older_than_the_schema_is_refused() {
    let world = World::ready(&[]).await;
    assert_eq!(world.cluster.get(PIPELINE).unwrap()["status"]["schemaVersion"], 1);
    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["spec"]["image"]["tag"] = json!("1.0.0");
        pipeline["metadata"]["generation"] = json!(2);
    });
    world.pass().await.unwrap();
    for path in world.cluster.paths("/jobs/") {
        world.cluster.edit(&path, |job| {
            if job["status"].is_null() {
                let failed = json!({ "type": "Failed", "status": "True", "reason": "PodFailurePolicy" });
                job["status"] = json!({ "conditions": [failed] });
            }
        });
    }
    assert_eq!(world.pass().await.unwrap_err().reason(), "DowngradeRefused");
    assert_eq!(world.reason("SchemaReady"), "False DowngradeRefused");
    let image = &world.cluster.get(API).unwrap()["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(image, "ghcr.io/example/commerce-api:1.2.3");
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
async fn an_index_with_another_mapping_is_replaced_before_anything_runs() {
    let world = World::with(&[("postgres/migrations", json!("Manual"))]);
    let mut other = IndexSpec::new("orders");
    other.properties.insert("note".into(), json!({ "type": "text" }));
    *world.stores.index.lock().unwrap() = Found::as_wanted(&other);
    world.pass().await.unwrap();
    assert_eq!(world.reason("TopicsReady"), "True Created");
    assert_eq!(world.reason("IndexReady"), "True Reindexing");
    assert_eq!(world.cluster.paths("/deployments/"), Vec::<String>::new());
    world.stores.fill(&IndexSpec::new("orders").wanted_index());
    world.cluster.finish_jobs("Complete");
    world.pass().await.unwrap();
    assert_eq!(world.reason("IndexReady"), "True Created");
    assert_eq!(world.cluster.paths("/deployments/").len(), 3);
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
    world.delete();
    world.pass().await.unwrap();
    assert_eq!(world.cluster.get(PIPELINE), None);
}

#[tokio::test]
async fn flowing_is_told_beside_ready_and_jitter_is_not_written() {
    let world = World::ready(&[]).await;
    assert_eq!(world.reason("Flowing"), "Unknown Starting");
    world.cluster.run_pods(&["relay", "indexer"]);
    world.pass().await.unwrap();
    assert_eq!(world.reason("Flowing"), "True Flowing");
    world.everything();
    for jitter in 0..5 {
        *world.services.relay.lock().unwrap() = Ok(active(jitter * 7, 0.1));
        world.pass().await.unwrap();
    }
    assert_eq!(world.everything(), Vec::<String>::new());

    let parked = RelayStatus {
        parked: Some(2),
        ..active(0, 0.0)
    };
    *world.services.relay.lock().unwrap() = Ok(parked);
    world.pass().await.unwrap();
    assert_eq!(world.reason("Flowing"), "False EventsParked");
    assert_eq!(
        world.reason("Ready"),
        "True Running",
        "all that the spec asks for runs"
    );
    assert_eq!(
        world.cluster.get(PIPELINE).unwrap()["status"]["outbox"]["failed"],
        2
    );
    let told = world.everything();
    assert!(
        told.iter().any(|entry| entry.starts_with("event EventsParked")),
        "{told:?}"
    );
    world.pass().await.unwrap();
    assert_eq!(world.everything(), Vec::<String>::new());

    *world.services.relay.lock().unwrap() = Ok(active(0, 0.0));
    world.pass().await.unwrap();
    assert_eq!(world.reason("Flowing"), "True Flowing");
}

#[tokio::test]
async fn flowing_is_told_while_a_store_is_away() {
    let mut world = World::ready(&[]).await;
    world.cluster.run_pods(&["relay", "indexer"]);
    world.restart_operator();
    world.stores.take_away(&["Redis"]);
    world.pass().await.unwrap_err();
    assert_eq!(world.reason("Flowing"), "True Flowing");
}

#[tokio::test]
async fn what_a_failed_status_write_could_not_tell_is_told_by_the_next_pass() {
    let world = World::with(&[]);
    world.pass().await.unwrap();
    world.cluster.finish_jobs("Complete");
    world
        .cluster
        .refuse_next("commercepipelines/shop/status", StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(world.pass().await.unwrap_err().reason(), "StatusFailed");
    assert_eq!(world.reason("TopicsReady"), "Unknown NotReached");
    world.pass().await.unwrap();
    assert_eq!(world.reason("TopicsReady"), "True Created");
    assert_eq!(world.reason("IndexReady"), "True Created");
}

#[tokio::test]
async fn for_a_pipeline_that_is_gone_before_it_could_be_held_nothing_is_made() {
    let world = World::with(&[]);
    world
        .cluster
        .refuse_next("commercepipelines/shop", StatusCode::NOT_FOUND);
    world.pass().await.unwrap();
    assert_eq!(world.everything(), Vec::<String>::new());
}

/// The API server gives quantities back in a notation of its own.
#[tokio::test]
async fn quantities_in_another_notation_are_not_written_again() {
    let resources = json!({ "requests": { "cpu": "1000m", "memory": "1024Mi" }, "limits": { "memory": 2_147_483_648_i64 } });
    let mut world = World::ready(&[("api/resources", resources)]).await;
    world.cluster.edit(API, |api| {
        let container = &mut api["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["resources"]["requests"]["cpu"], "1000m");
        container["resources"] =
            json!({ "requests": { "cpu": "1", "memory": "1Gi" }, "limits": { "memory": "2Gi" } });
    });
    world.restart_operator();
    world.pass().await.unwrap();
    assert_eq!(world.everything(), Vec::<String>::new());
}
