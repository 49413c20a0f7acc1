//! Whose the stores are, by the marks in them: of pipelines that this operator can't see, and of newer specs.

use commerce_core::owner::Owner;
use commerce_operator::reconcile::names;
use serde_json::{Value, json};

use crate::{
    cluster::PIPELINE,
    fixtures::{minimal, stored},
    stores::Marks,
    world::World,
};

const OTHER: &str = "/apis/commerce.lab/v1alpha1/namespaces/store/commercepipelines/other";

fn own(generation: i64) -> Owner {
    Owner {
        uid: "8c1f".to_owned(),
        namespace: "store".to_owned(),
        name: "shop".to_owned(),
        cluster: "c1".to_owned(),
        generation,
    }
}

/// Of the same names, in another cluster.
fn twin() -> Owner {
    Owner {
        uid: "77aa".to_owned(),
        cluster: "c2".to_owned(),
        ..own(1)
    }
}

/// A pipeline of this cluster that the operator can see.
fn other(created: &str) -> (Owner, Value) {
    let mut other = stored(&minimal(), &[("kafka/topics/prefix", json!("other."))]);
    other["metadata"]["name"] = json!("other");
    other["metadata"]["uid"] = json!("99bb");
    other["metadata"]["creationTimestamp"] = json!(created);
    other["spec"]["postgres"]["secretRef"]["name"] = json!("pg-app");
    other["spec"]["elasticsearch"]["index"]["name"] = json!("other");
    let owner = Owner {
        uid: "99bb".to_owned(),
        name: "other".to_owned(),
        ..own(1)
    };
    (owner, other)
}

fn created(world: &World, at: &str) {
    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["metadata"]["creationTimestamp"] = json!(at);
    });
}

fn annotate(world: &World, annotation: &str) {
    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["metadata"]["annotations"] = json!({ annotation: "true" });
    });
}

fn next_generation(world: &World) {
    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["spec"]["kafka"]["topics"]["partitions"] = json!(9);
        pipeline["metadata"]["generation"] = json!(2);
    });
}

#[tokio::test]
async fn each_store_is_marked_before_it_is_touched() {
    let world = World::with(&[]);
    world.stores.schema.lock().unwrap().0 = 0;
    world.pass().await.unwrap();
    assert_eq!(
        world.stores.held().marks,
        Marks {
            schema: None,
            index: Some(own(1))
        },
        "there is no table for the mark yet"
    );
    world.cluster.finish_jobs("Complete");
    *world.stores.schema.lock().unwrap() = (1, 1);
    world.everything();
    world.pass().await.unwrap();
    let done = world.everything();
    let place = |what: &str| done.iter().position(|entry| entry == what).unwrap();
    assert!(place("mark schema") < place("topics"), "{done:?}");
    assert_eq!(world.stores.held().marks.schema, Some(own(1)));

    next_generation(&world);
    world.pass().await.unwrap();
    let marks = world.stores.held().marks;
    assert_eq!((marks.schema, marks.index), (Some(own(2)), Some(own(1))));
}

#[tokio::test]
async fn tables_of_another_clusters_pipeline_are_not_touched_until_they_are_adopted() {
    let world = World::with(&[]);
    world.stores.marks.lock().unwrap().schema = Some(twin());
    assert_eq!(world.pass().await.unwrap_err().reason(), "Conflict");
    assert_eq!(world.reason("SchemaReady"), "False Conflict");
    let message = world.condition("Ready")["message"].as_str().unwrap().to_owned();
    for part in [
        "store/shop (uid 77aa) of another cluster",
        "postgres.secretRef",
        names::ADOPT,
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(
        world.done(),
        ["apply commercepipelines/shop", "apply serviceaccounts/shop"]
    );
    assert_eq!(world.stores.held().marks.schema, Some(twin()));
    world.pass().await.unwrap_err();
    assert_eq!(world.everything(), Vec::<String>::new(), "it is told once");

    annotate(&world, names::ADOPT);
    world.pass().await.unwrap();
    assert_eq!(world.stores.held().marks.schema, Some(own(1)));
    assert_eq!(world.reason("SchemaReady"), "False Migrating");
}

#[tokio::test]
async fn an_index_of_another_clusters_pipeline_is_not_touched() {
    let world = World::with(&[]);
    world.stores.marks.lock().unwrap().index = Some(twin());
    assert_eq!(world.pass().await.unwrap_err().reason(), "Conflict");
    assert_eq!(world.reason("IndexReady"), "False Conflict");
    assert_eq!(world.cluster.paths("/jobs/"), Vec::<String>::new());
    annotate(&world, names::ADOPT);
    world.pass().await.unwrap();
    assert_eq!(world.stores.held().marks.index, Some(own(1)));
}

/// What runs goes on running where somebody else takes the stores over.
#[tokio::test]
async fn a_pipeline_that_lost_its_stores_is_kept_in_repair() {
    let mut world = World::ready(&[]).await;
    world.stores.marks.lock().unwrap().schema = Some(twin());
    world.restart_operator();
    let api = "/apis/apps/v1/namespaces/store/deployments/shop-api";
    world.cluster.remove(api);
    assert_eq!(world.pass().await.unwrap_err().reason(), "Conflict");
    assert_eq!(world.done(), ["apply deployments/shop-api"]);
}

#[tokio::test]
async fn an_operator_that_was_replaced_writes_into_no_store() {
    let mut world = World::ready(&[]).await;
    let before = world.stores.held();
    world.stores.marks.lock().unwrap().schema = Some(own(3));
    world.stores.topics.lock().unwrap().clear();
    world.restart_operator();
    assert_eq!(world.pass().await.unwrap_err().reason(), "Superseded");
    assert_eq!(world.reason("SchemaReady"), "False Superseded");
    assert_eq!(world.done(), Vec::<String>::new());
    assert_eq!(world.stores.held().topics.len(), 0);

    // It sees the newer spec in the end.
    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["metadata"]["generation"] = json!(3);
    });
    world.cluster.finish_jobs("Complete");
    world.pass().await.unwrap();
    assert_eq!(world.stores.held().topics, before.topics);
}

/// As after an etcd backup was put back.
#[tokio::test]
async fn a_cluster_that_went_back_can_adopt_its_own() {
    let mut world = World::ready(&[]).await;
    world.stores.marks.lock().unwrap().schema = Some(own(7));
    world.restart_operator();
    annotate(&world, names::ADOPT);
    world.pass().await.unwrap();
    assert_eq!(world.stores.held().marks.schema, Some(own(1)));
    assert_eq!(world.reason("Ready"), "True Running");
}

#[tokio::test]
async fn what_a_pipeline_of_this_cluster_left_behind_is_taken_up() {
    let world = World::with(&[]);
    let gone = Owner {
        uid: "0000".to_owned(),
        ..own(9)
    };
    *world.stores.marks.lock().unwrap() = Marks {
        schema: Some(gone.clone()),
        index: Some(Owner {
            name: "renamed".to_owned(),
            ..gone
        }),
    };
    world.pass().await.unwrap();
    let marks = world.stores.held().marks;
    assert_eq!((marks.schema, marks.index), (Some(own(1)), Some(own(1))));
}

/// A store may have two names, so that the specs don't tell.
#[tokio::test]
async fn of_two_pipelines_of_this_cluster_the_older_one_has_it() {
    let (owner, older) = other("2025-01-01T00:00:00Z");
    let world = World::with(&[]);
    created(&world, "2026-01-01T00:00:00Z");
    world.cluster.put(OTHER, older);
    world.stores.marks.lock().unwrap().schema = Some(owner.clone());
    assert_eq!(world.pass().await.unwrap_err().reason(), "Conflict");
    let message = world.condition("Ready")["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("store/other (uid 99bb): name another"),
        "{message}"
    );

    let (_, younger) = other("2027-01-01T00:00:00Z");
    world.cluster.put(OTHER, younger);
    world.pass().await.unwrap();
    assert_eq!(world.stores.held().marks.schema, Some(own(1)));
}

/// The namespace is all that such an operator may look at.
#[tokio::test]
async fn an_operator_of_one_namespace_knows_its_cluster_by_that() {
    let world = World::with(&[]);
    world.cluster.forbid("/api/v1/namespaces/kube-system");
    world.pass().await.unwrap();
    assert_eq!(world.stores.held().marks.index.unwrap().cluster, "n1");
}

#[tokio::test]
async fn what_is_kept_is_left_without_a_mark() {
    let world = World::ready(&[]).await;
    world.delete();
    world.pass().await.unwrap();
    assert_eq!(world.cluster.get(PIPELINE), None);
    let held = world.stores.held();
    assert_eq!((held.marks, held.topics.len()), (Marks::default(), 4));
}

#[tokio::test]
async fn what_is_another_pipelines_by_now_is_not_removed_and_its_mark_stays() {
    for changes in [
        vec![("deletionPolicy", json!("Delete"))],
        vec![("kafka/deletionPolicy", json!("Delete"))],
    ] {
        let mut world = World::ready(&changes).await;
        let marks = Marks {
            schema: Some(twin()),
            index: Some(twin()),
        };
        *world.stores.marks.lock().unwrap() = marks.clone();
        let before = world.stores.held();
        world.restart_operator();
        world.delete();
        world.pass().await.unwrap();
        assert_eq!(world.cluster.get(PIPELINE), None);
        assert_eq!(world.stores.held(), before);
        let told = world.everything();
        assert!(
            told.iter().any(|entry| entry.starts_with("event Abandoned")),
            "{told:?}"
        );
    }
}
