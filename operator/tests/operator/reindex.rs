//! A changed mapping: another index is filled beside the one that serves and takes its place, and nothing is left behind.

use std::{sync::atomic::Ordering, time::Duration};

use commerce_core::index::{IndexSpec, next_alias};
use commerce_operator::{crd::CommercePipelineStatus, reconcile::names};
use kube::runtime::controller::Action;
use serde_json::{Value, json};
use tokio::time::{Instant, advance};

use crate::{cluster::PIPELINE, world::World};

const JOBS: &str = "/apis/batch/v1/namespaces/store/jobs/";
const SERVICE: &str = "/api/v1/namespaces/store/services/shop-api";

/// The name of the index whose mapping has these fields, beside the pipeline's own.
fn index_with(fields: &[&str]) -> String {
    let mut spec = IndexSpec::new("orders");
    for field in fields {
        spec.properties
            .insert((*field).to_owned(), json!({ "type": "keyword" }));
    }
    spec.wanted_index()
}

fn change_fields(world: &World, fields: &[&str]) {
    world.cluster.edit(PIPELINE, |pipeline| {
        let properties: serde_json::Map<_, _> = fields
            .iter()
            .map(|field| ((*field).to_owned(), json!({ "type": "keyword" })))
            .collect();
        pipeline["spec"]["elasticsearch"]["index"]["mappings"] = json!({ "properties": properties });
        let generation = pipeline["metadata"]["generation"].as_i64().unwrap();
        pipeline["metadata"]["generation"] = json!(generation + 1);
    });
}

fn status(world: &World) -> CommercePipelineStatus {
    serde_json::from_value(world.cluster.get(PIPELINE).unwrap()["status"].clone()).unwrap()
}

/// The Job that fills this index.
fn job(world: &World, index: &str) -> Option<Value> {
    let jobs = world.cluster.paths(JOBS).into_iter();
    let mut jobs = jobs.filter_map(|path| world.cluster.get(&path));
    jobs.find(|job| job["metadata"]["annotations"][names::REINDEX_INTO] == index)
}

fn name(job: &Value) -> String {
    job["metadata"]["name"].as_str().unwrap().to_owned()
}

fn message(world: &World, condition: &str) -> String {
    world.condition(condition)["message"].as_str().unwrap().to_owned()
}

/// A pod of the Job, in this state.
fn put_pod(world: &World, job: &Value, phase: &str, init: &Value) {
    let (job, uid) = (name(job), &job["metadata"]["uid"]);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{job}-x"), "labels": { "app.kubernetes.io/component": "reindex" },
            "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid }],
        },
        "status": { "phase": phase, "initContainerStatuses": [{
            "name": "rebuild", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": init,
        }] },
    });
    world
        .cluster
        .put(&format!("/api/v1/namespaces/store/pods/{job}-x"), pod);
}

/// A pipeline that runs, whose mapping is about to get this field; the Job that fills the index is there.
async fn begun() -> World {
    let world = World::ready(&[]).await;
    change_fields(&world, &["note"]);
    world.pass().await.unwrap();
    world.everything();
    world
}

#[tokio::test(start_paused = true)]
async fn a_changed_mapping_is_carried_out_while_the_index_before_serves() {
    let (before, after) = (index_with(&[]), index_with(&["note"]));
    let world = World::ready(&[]).await;
    let stores = &world.stores;
    stores.documents.lock().unwrap().insert(before.clone(), 1000);
    change_fields(&world, &["note"]);
    let again = world.pass().await.unwrap();
    assert_eq!(again, Action::requeue(Duration::from_secs(5)));
    let job = job(&world, &after).unwrap();
    let done = world.everything();
    assert_eq!(
        done,
        [
            "mark schema".to_owned(),
            "index".to_owned(),
            format!("apply jobs/{}", name(&job)),
            "status commercepipelines/shop".to_owned(),
            "event ReindexStarted store/events".to_owned(),
        ],
        "the template, the Job, and nothing of what runs"
    );
    assert_eq!(world.reason("IndexReady"), "True Reindexing");
    assert_eq!(world.reason("Ready"), "False Reindexing");
    let index = status(&world).index.unwrap();
    assert_eq!(
        (index.active, index.target, index.progress),
        (before.clone(), Some(after.clone()), Some(0))
    );
    assert_eq!(index.documents, Some(1000));

    stores.fill(&after);
    stores.documents.lock().unwrap().insert(after.clone(), 427);
    put_pod(&world, &job, "Pending", &json!({ "running": {} }));
    world.cluster.remove(SERVICE);
    world.pass().await.unwrap();
    assert_eq!(
        world.done(),
        ["apply services/shop-api"],
        "what runs is kept in repair"
    );
    assert_eq!(
        message(&world, "Ready"),
        format!(
            "{before} is read and written as orders; Job {} fills {after} from PostgreSQL, 42 %",
            name(&job)
        )
    );
    put_pod(
        &world,
        &job,
        "Running",
        &json!({ "terminated": { "exitCode": 0 } }),
    );
    world.pass().await.unwrap();
    assert!(message(&world, "IndexReady").ends_with(&format!("compares {after} with PostgreSQL")));
    world.everything();
    world.pass().await.unwrap();
    assert_eq!(
        world.everything(),
        [""; 0],
        "nothing has changed, and nothing is written"
    );

    world.cluster.finish_jobs("Complete");
    let again = world.pass().await.unwrap();
    assert_eq!(again, Action::requeue(Duration::from_secs(5)));
    assert_eq!(stores.indices(), (sorted([&before, &after]), vec![after.clone()]));
    let done = world.everything().into_iter();
    // That it is ready again is the same event as before, told once more.
    let done: Vec<_> = done.filter(|entry| !entry.contains(" events/")).collect();
    assert_eq!(
        done,
        [
            format!("promote {after}"),
            "status commercepipelines/shop".to_owned(),
            "event Reindexed store/events".to_owned(),
        ]
    );
    assert_eq!(world.reason("Ready"), "True Running");
    assert_eq!(world.reason("IndexReady"), "True Created");
    let index = status(&world).index.unwrap();
    assert_eq!(
        (index.active, index.target, index.progress),
        (after.clone(), None, None)
    );

    world.pass().await.unwrap();
    assert_eq!(
        world.everything(),
        [""; 0],
        "a search may still be led to the index before"
    );
    advance(Duration::from_secs(11)).await;
    world.pass().await.unwrap();
    assert_eq!(
        world.done(),
        [format!("delete {before}"), format!("delete jobs/{}", name(&job))]
    );
    assert_eq!(stores.indices(), (vec![after.clone()], vec![after]));
    world.pass().await.unwrap();
    assert_eq!(world.everything(), [""; 0]);
}

fn sorted(names: [&String; 2]) -> Vec<String> {
    let mut names = names.map(Clone::clone);
    names.sort();
    names.into()
}

#[tokio::test]
async fn an_index_that_refuses_orders_is_told_with_the_pod_and_the_reason_and_the_index_before_serves() {
    let (before, after) = (index_with(&[]), index_with(&["note"]));
    let world = begun().await;
    let job = job(&world, &after).unwrap();
    let log =
        "refused: order 7: no\nElasticsearch refused 1 order, first order 7: [quantity] is out of range\n";
    let ended = json!({ "terminated": { "exitCode": 5, "reason": "Error", "message": log } });
    put_pod(&world, &job, "Failed", &ended);
    world.cluster.edit(&format!("{JOBS}{}", name(&job)), |job| {
        job["status"] = json!({ "conditions": [{ "type": "Failed", "status": "True" }] });
    });
    for _ in 0..2 {
        world.pass().await.unwrap_err();
    }
    assert_eq!(
        world.everything(),
        [
            "status commercepipelines/shop",
            "event ReindexFailed store/events"
        ]
    );
    assert_eq!(world.reason("IndexReady"), "False ReindexFailed");
    let told = message(&world, "Ready");
    let expected = format!(
        "Job {0}, which fills {after}, failed (pod {0}-x: Error, exit code 5: Elasticsearch refused 1 order, first order 7: [quantity] is out of range); {before} goes on serving",
        name(&job)
    );
    assert!(told.starts_with(&expected), "{told}");

    // As the message says.
    world.cluster.remove(&format!("{JOBS}{}", name(&job)));
    world.pass().await.unwrap();
    assert_eq!(world.done(), [format!("apply jobs/{}", name(&job))]);
    assert_eq!(world.reason("IndexReady"), "True Reindexing");
}

#[tokio::test]
async fn an_index_that_has_missed_an_event_does_not_take_over_and_is_filled_anew() {
    let (before, after) = (index_with(&[]), index_with(&["note"]));
    let world = begun().await;
    let first = job(&world, &after).unwrap();
    world.stores.fill(&after);
    world.stores.give_up(&after);
    world.cluster.finish_jobs("Complete");
    world.pass().await.unwrap();
    assert_eq!(world.stores.indices().1, [before]);
    let told = world.everything();
    assert!(
        told.contains(&"event ReindexFailed store/events".to_owned()),
        "{told:?}"
    );
    assert!(message(&world, "IndexReady").contains("has missed an event"));
    assert_eq!(job(&world, &after), None);

    world.pass().await.unwrap();
    assert_eq!(name(&job(&world, &after).unwrap()), name(&first));
    world.stores.fill(&after);
    world.cluster.finish_jobs("Complete");
    world.pass().await.unwrap();
    assert_eq!(world.stores.indices().1, [after]);
}

#[tokio::test]
async fn a_mapping_that_changes_again_gives_up_the_index_that_was_being_filled() {
    let (before, given_up, after) = (index_with(&[]), index_with(&["note"]), index_with(&["channel"]));
    let world = begun().await;
    let first = job(&world, &given_up).unwrap();
    world.stores.fill(&given_up);
    put_pod(&world, &first, "Pending", &json!({ "running": {} }));

    change_fields(&world, &["channel"]);
    world.pass().await.unwrap();
    assert_eq!(
        world.done(),
        ["index".to_owned(), format!("apply jobs/{}", name(&first))]
    );
    assert_eq!(job(&world, &given_up).unwrap()["spec"]["suspend"], true);
    world.pass().await.unwrap();
    assert_eq!(world.done(), [""; 0], "its pod may still write");

    world
        .cluster
        .remove(&format!("/api/v1/namespaces/store/pods/{}-x", name(&first)));
    world.pass().await.unwrap();
    let second = job(&world, &after).unwrap();
    assert_eq!(
        world.done(),
        [
            format!("delete {given_up}"),
            format!("delete jobs/{}", name(&first)),
            format!("apply jobs/{}", name(&second)),
        ]
    );
    assert_eq!(world.stores.indices(), (vec![before.clone()], vec![before]));
}

#[tokio::test]
async fn a_mapping_that_is_put_back_moves_nothing() {
    let (before, given_up) = (index_with(&[]), index_with(&["note"]));
    let world = begun().await;
    let job = job(&world, &given_up).unwrap();
    world.stores.fill(&given_up);
    world.cluster.finish_jobs("Complete");
    change_fields(&world, &[]);
    world.pass().await.unwrap();
    assert_eq!(
        world.done(),
        [
            "index".to_owned(),
            format!("delete {given_up}"),
            format!("delete jobs/{}", name(&job))
        ]
    );
    assert_eq!(world.stores.indices(), (vec![before.clone()], vec![before]));
    assert_eq!(world.reason("Ready"), "True Running");
    assert_eq!(status(&world).index.unwrap().target, None);
}

/// The spec goes to and fro faster than the Job can be stopped.
#[tokio::test]
async fn a_job_that_was_stopped_is_begun_anew_where_it_is_wanted_again() {
    let after = index_with(&["note"]);
    let world = begun().await;
    let first = job(&world, &after).unwrap();
    put_pod(&world, &first, "Pending", &json!({ "running": {} }));
    change_fields(&world, &[]);
    world.pass().await.unwrap();
    assert_eq!(job(&world, &after).unwrap()["spec"]["suspend"], true);
    change_fields(&world, &["note"]);
    world.pass().await.unwrap();
    world.pass().await.unwrap();
    let second = job(&world, &after).unwrap();
    assert_eq!(
        (name(&second), &second["spec"]["suspend"]),
        (name(&first), &Value::Null)
    );
}

#[tokio::test]
async fn an_alias_that_was_moved_before_the_index_was_full_keeps_the_job_until_it_is() {
    let after = index_with(&["note"]);
    let world = begun().await;
    world.stores.fill(&after);
    {
        let mut found = world.stores.index.lock().unwrap();
        for (name, index) in &mut found.indices {
            let leads = *name == after;
            index["aliases"] = if leads {
                json!({ "orders": {}, next_alias("orders"): {} })
            } else {
                json!({})
            };
        }
    }
    world.pass().await.unwrap();
    assert!(job(&world, &after).is_some(), "it is not full yet");
    assert_eq!(world.reason("IndexReady"), "True Created");
    world.cluster.finish_jobs("Complete");
    world.everything();
    world.pass().await.unwrap();
    assert_eq!(
        world.done(),
        [format!("promote {after}")],
        "it takes its events through the alias alone"
    );
}

#[tokio::test(start_paused = true)]
async fn an_index_that_can_not_be_deleted_is_told_and_holds_nothing_up() {
    let (before, after) = (index_with(&[]), index_with(&["note"]));
    let world = begun().await;
    world.stores.fill(&after);
    world.stores.keeps_indices.store(true, Ordering::Relaxed);
    world.cluster.finish_jobs("Complete");
    for _ in 0..2 {
        world.pass().await.unwrap();
    }
    advance(Duration::from_secs(11)).await;
    world.pass().await.unwrap();
    assert_eq!(world.reason("Ready"), "True Running");
    assert_eq!(
        message(&world, "IndexReady"),
        format!(
            "{after} is read and written as orders; deleting the index {before}, which is not used any more: 403 Forbidden. It is tried again"
        )
    );
    world.stores.keeps_indices.store(false, Ordering::Relaxed);
    world.pass().await.unwrap();
    assert_eq!(world.stores.indices().0, [after]);
}

#[tokio::test]
async fn without_certainty_of_the_lease_no_alias_is_moved() {
    let after = index_with(&["note"]);
    let world = begun().await;
    world.stores.fill(&after);
    world.cluster.finish_jobs("Complete");
    world
        .context
        .tenure
        .until(Some(Instant::now() + Duration::from_secs(5)));
    world.pass().await.unwrap_err();
    assert_eq!(world.done(), [""; 0]);
    assert_eq!(world.stores.indices().1, [index_with(&[])]);
}

/// An index of somebody else's is nothing to take the alias from, and where drift is only observed, none is filled.
#[tokio::test]
async fn what_is_not_the_specs_to_decide_is_left_and_told() {
    for (policy, other, advice) in [
        ("Correct", "legacy", "it is not one of the pipeline's"),
        (
            "Observe",
            "orders-00000000-1",
            "driftPolicy: Observe leaves it so",
        ),
    ] {
        let mut world = World::ready(&[("driftPolicy", json!(policy))]).await;
        {
            let mut found = world.stores.index.lock().unwrap();
            let index = found.indices.pop_first().unwrap().1;
            found.indices.insert(other.to_owned(), index);
        }
        world.restart_operator();
        world.pass().await.unwrap_err();
        assert_eq!(world.done(), [""; 0]);
        assert_eq!(world.reason("IndexReady"), "False IndexFailed");
        let told = message(&world, "IndexReady");
        assert!(told.contains(advice), "{told}");
    }
}
