//! New versions go from the indexer to the relay to the API, each when the one before is ready, and nothing that holds them up
//! holds up repair.

use commerce_operator::reconcile::readiness::{Check, Readiness};
use serde_json::json;

use crate::{cluster::PIPELINE, world::World};

const ORDER: [&str; 3] = ["indexer", "relay", "api"];

fn path(component: &str) -> String {
    format!("/apis/apps/v1/namespaces/store/deployments/shop-{component}")
}

fn tag(world: &World, component: &str) -> String {
    let deployment = world.cluster.get(&path(component)).unwrap();
    let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
    image.as_str().unwrap().rsplit(':').next().unwrap().to_owned()
}

fn tags(world: &World) -> [String; 3] {
    ORDER.map(|component| tag(world, component))
}

fn ask_for(world: &World, tag: &str) {
    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["spec"]["image"]["tag"] = json!(tag);
        let generation = pipeline["metadata"]["generation"].as_i64().unwrap();
        pipeline["metadata"]["generation"] = json!(generation + 1);
    });
}

/// As the Deployment controller tells while a new pod is not ready and the old ones serve.
fn is_stuck(world: &World, component: &str) {
    world.cluster.edit(&path(component), |deployment| {
        deployment["status"] = json!({
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": 3, "updatedReplicas": 1, "readyReplicas": 2, "availableReplicas": 2,
        });
    });
}

/// With the schema in order, so that only the workloads are left.
async fn upgrading(tag: &str) -> World {
    let world = World::ready(&[]).await;
    ask_for(&world, tag);
    world.pass().await.unwrap();
    world.cluster.finish_jobs("Complete");
    world.pass().await.unwrap();
    world
}

#[tokio::test]
async fn a_new_version_goes_to_one_component_after_the_other() {
    let world = upgrading("2.0.0").await;
    assert_eq!(tags(&world), ["2.0.0", "1.2.3", "1.2.3"]);
    world.pass().await.unwrap();
    assert_eq!(
        tags(&world),
        ["2.0.0", "1.2.3", "1.2.3"],
        "the indexer is not ready yet"
    );
    assert_eq!(world.reason("ApiAvailable"), "True RolloutWaiting");
    let message = world.condition("ApiAvailable")["message"].clone();
    assert_eq!(
        message,
        "2 of 2 replicas are ready; its new version waits for indexer"
    );
    assert_eq!(world.reason("Ready").split(' ').next(), Some("False"));

    world.cluster.start_pods();
    world.pass().await.unwrap();
    assert_eq!(tags(&world), ["2.0.0", "2.0.0", "1.2.3"]);
    world.cluster.start_pods();
    world.pass().await.unwrap();
    assert_eq!(tags(&world), ["2.0.0"; 3]);
    world.cluster.start_pods();
    world.pass().await.unwrap();
    assert_eq!(world.reason("Ready"), "True Running");
    assert_eq!(
        world.cluster.paths("/controllerrevisions/").len(),
        3,
        "of the versions that ran before nothing is left"
    );
}

#[tokio::test]
async fn a_version_that_does_not_become_ready_goes_no_further_and_the_old_spec_takes_it_back() {
    let world = upgrading("2.0.0").await;
    is_stuck(&world, "indexer");
    world.cluster.put(
        "/api/v1/namespaces/store/pods/shop-indexer-x",
        json!({
            "metadata": { "name": "shop-indexer-x", "labels": { "app.kubernetes.io/component": "indexer" } },
            "status": { "containerStatuses": [{
                "name": "indexer", "image": "", "imageID": "", "ready": false, "restartCount": 1,
                "state": { "waiting": { "reason": "CrashLoopBackOff" } },
                "lastState": { "terminated": { "exitCode": 1, "message": "starting\nKAFKA_GROUP_ID is not set\n" } },
            }] },
        }),
    );
    world.pass().await.unwrap();
    assert_eq!(tags(&world), ["2.0.0", "1.2.3", "1.2.3"]);
    assert_eq!(world.reason("Ready"), "False RolloutStuck");
    let message = world.condition("Ready")["message"].as_str().unwrap().to_owned();
    assert!(
        message.ends_with("pod shop-indexer-x: CrashLoopBackOff: KAFKA_GROUP_ID is not set"),
        "{message}"
    );

    ask_for(&world, "1.2.3");
    world.pass().await.unwrap();
    world.cluster.finish_jobs("Complete");
    world.pass().await.unwrap();
    assert_eq!(tags(&world), ["1.2.3"; 3]);
    world.cluster.start_pods();
    world.pass().await.unwrap();
    assert_eq!(world.reason("Ready"), "True Running");
}

#[tokio::test]
async fn what_is_deleted_or_edited_during_a_rollout_is_put_back_as_it_was() {
    let mut world = upgrading("2.0.0").await;
    is_stuck(&world, "indexer");
    world.pass().await.unwrap();
    world.done();
    world.cluster.remove(&path("api"));
    world.cluster.edit(&path("relay"), |relay| {
        relay["spec"]["template"]["spec"]["containers"][0]["image"] = json!("elsewhere:9");
    });
    world.restart_operator();
    world.pass().await.unwrap();
    assert_eq!(tags(&world), ["2.0.0", "1.2.3", "1.2.3"]);
    let written: Vec<_> = world
        .done()
        .into_iter()
        .filter(|entry| entry.starts_with("apply"))
        .collect();
    assert_eq!(
        written,
        ["apply deployments/shop-relay", "apply deployments/shop-api"]
    );
}

#[tokio::test]
async fn while_the_schema_waits_what_runs_is_kept_in_repair() {
    let world = World::ready(&[]).await;
    ask_for(&world, "2.0.0");
    world.pass().await.unwrap();
    assert_eq!(world.reason("SchemaReady"), "False Migrating");
    world.cluster.remove(&path("api"));
    world.cluster.remove("/api/v1/namespaces/store/services/shop-api");
    world.pass().await.unwrap();
    assert_eq!(tags(&world), ["1.2.3"; 3]);
    assert!(
        world
            .cluster
            .get("/api/v1/namespaces/store/services/shop-api")
            .is_some()
    );
    assert_eq!(world.reason("SchemaReady"), "False Migrating");
}

#[tokio::test]
async fn a_rotated_secret_goes_the_same_way_and_only_to_its_users() {
    let world = World::ready(&[]).await;
    let secret = "/api/v1/namespaces/store/secrets/cache";
    // redis://:other@redis:6379/0
    let rotated = json!({ "uri": "cmVkaXM6Ly86b3RoZXJAcmVkaXM6NjM3OS8w" });
    world.cluster.edit(secret, |secret| secret["data"] = rotated);
    let deployments = |world: &World| {
        let done = world.done();
        let of_deployments = |entry: &String| entry.contains("deployments/");
        done.into_iter().filter(of_deployments).collect::<Vec<_>>()
    };
    world.pass().await.unwrap();
    assert_eq!(deployments(&world), ["apply deployments/shop-indexer"]);
    world.cluster.start_pods();
    world.pass().await.unwrap();
    assert_eq!(deployments(&world), ["apply deployments/shop-api"]);
}

#[tokio::test]
async fn another_size_waits_for_nobody() {
    let world = upgrading("2.0.0").await;
    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["spec"]["api"]["replicas"] = json!(5);
        pipeline["metadata"]["generation"] = json!(3);
    });
    world.pass().await.unwrap();
    assert_eq!(world.cluster.get(&path("api")).unwrap()["spec"]["replicas"], 5);
    assert_eq!(tag(&world, "api"), "1.2.3");
}

/// The operator dies before it removes the version that was taken back, and cannot look into the stores after that.
#[tokio::test]
async fn a_version_that_came_back_is_what_is_put_back() {
    let mut world = upgrading("2.0.0").await;
    for _ in 0..3 {
        world.cluster.start_pods();
        world.pass().await.unwrap();
    }
    assert_eq!(tags(&world), ["2.0.0"; 3]);
    let revision_of = |world: &World, tag: &str| {
        let paths = world.cluster.paths("/controllerrevisions/shop-api-");
        let found = paths.into_iter().find(|path| {
            let data = &world.cluster.get(path).unwrap()["data"];
            data["spec"]["containers"][0]["image"]
                .as_str()
                .unwrap()
                .ends_with(tag)
        });
        found.unwrap()
    };
    let newer = revision_of(&world, "2.0.0");
    let kept = world.cluster.get(&newer).unwrap();

    ask_for(&world, "1.2.3");
    world.pass().await.unwrap();
    world.cluster.finish_jobs("Complete");
    for _ in 0..3 {
        world.pass().await.unwrap();
        world.cluster.start_pods();
    }
    assert_eq!(tags(&world), ["1.2.3"; 3]);
    world.cluster.put(&newer, kept);
    // It was made before the other one, as where 1.2.3 ran first.
    world.cluster.edit(&revision_of(&world, "1.2.3"), |revision| {
        revision["revision"] = json!(1);
    });
    world
        .cluster
        .refuse_next(newer.leak(), http::StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(world.pass().await.unwrap_err().reason(), "ApplyFailed");

    world.restart_operator();
    world.stores.take_away(&["Kafka"]);
    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["spec"]["api"]["replicas"] = json!(5);
        pipeline["metadata"]["generation"] = json!(4);
    });
    world.cluster.remove(&path("api"));
    world.pass().await.unwrap_err();
    assert_eq!(tag(&world, "api"), "1.2.3");
    assert_eq!(world.cluster.get(&path("api")).unwrap()["spec"]["replicas"], 5);
}

#[tokio::test]
async fn while_the_spec_can_not_be_built_what_runs_is_kept_in_repair() {
    let mut world = World::ready(&[
        (
            "indexer/autoscaling",
            json!({ "minReplicas": 1, "maxReplicas": 4 }),
        ),
        ("api/autoscaling", json!({ "minReplicas": 2, "maxReplicas": 5 })),
        ("api/resources", json!({ "requests": { "cpu": "1" } })),
    ])
    .await;
    world.cluster.edit(&path("indexer"), |indexer| {
        indexer["spec"]["replicas"] = json!(3);
    });
    world.pass().await.unwrap();
    world.cluster.start_pods();
    let before = ORDER.map(|component| world.cluster.get(&path(component)).unwrap()["spec"].clone());
    world.cluster.remove("/api/v1/namespaces/store/secrets/cache");
    world.restart_operator();
    world.everything();
    assert_eq!(world.pass().await.unwrap_err().reason(), "SecretMissing");
    assert_eq!(world.done(), Vec::<String>::new(), "nothing is to be repaired");

    world.cluster.remove(&path("api"));
    world.cluster.remove("/api/v1/namespaces/store/services/shop-api");
    world.cluster.edit(&path("relay"), |relay| {
        relay["spec"]["template"]["spec"]["containers"][0]["image"] = json!("elsewhere:9");
        relay["spec"]["replicas"] = json!(9);
    });
    world.pass().await.unwrap_err();
    let after = ORDER.map(|component| world.cluster.get(&path(component)).unwrap()["spec"].clone());
    assert_eq!(after, before);
    assert_eq!(world.cluster.paths("/services/").len(), 3);
    assert_eq!(world.reason("Ready"), "False SecretMissing");
    assert_eq!(world.cluster.paths("/controllerrevisions/").len(), 3);
}

#[tokio::test]
async fn a_pipeline_whose_spec_can_not_be_built_begins_nothing() {
    let world = World::with(&[]);
    world.cluster.remove("/api/v1/namespaces/store/secrets/cache");
    world.pass().await.unwrap_err();
    assert_eq!(world.done(), ["apply commercepipelines/shop"]);
}

#[tokio::test]
async fn a_rollout_that_hangs_names_the_check_that_fails() {
    let world = World::ready(&[]).await;
    world.cluster.run_pods(&["api"]);
    world
        .cluster
        .edit("/api/v1/namespaces/store/pods/shop-api-x", |pod| {
            pod["status"]["conditions"] = json!([{ "type": "Ready", "status": "False" }]);
            pod["status"]["containerStatuses"] = json!([{
                "name": "api", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "running": {} },
            }]);
        });
    world.cluster.edit(&path("api"), |deployment| {
        deployment["status"]["readyReplicas"] = json!(0);
        deployment["status"]["availableReplicas"] = json!(0);
    });
    let check = |ready, message: Option<&str>| Check {
        ready,
        message: message.map(str::to_owned),
    };
    *world.services.readiness.lock().unwrap() = Ok(Readiness {
        ready: false,
        checks: [
            ("elasticsearch".to_owned(), check(false, Some("it answered 401"))),
            ("postgres".to_owned(), check(true, None)),
        ]
        .into(),
    });
    world.pass().await.unwrap();
    let told = "0 of 2 replicas are ready; pod shop-api-x is not ready: elasticsearch: it answered 401";
    assert_eq!(world.condition("ApiAvailable")["message"], told);
    world.everything();
    world.pass().await.unwrap();
    assert_eq!(world.everything(), Vec::<String>::new());

    *world.services.readiness.lock().unwrap() = Err("no answer within 2 s".to_owned());
    world.pass().await.unwrap();
    let told = "0 of 2 replicas are ready; pod shop-api-x is not ready: /readyz can't be asked, no answer within 2 s";
    assert_eq!(world.condition("ApiAvailable")["message"], told);
}
