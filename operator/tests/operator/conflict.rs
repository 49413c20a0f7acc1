//! Two pipelines that claim the same: the older one has it, the younger one touches nothing of it.

use commerce_operator::reconcile::{error::Error, reconcile};
use serde_json::{Value, json};

use crate::{
    cluster::PIPELINE,
    fixtures::{minimal, secret, stored},
    stores::Marks,
    world::World,
};

const YOUNGER: &str = "/apis/commerce.lab/v1alpha1/namespaces/store/commercepipelines/late";

/// A Secret of the younger one, and changes of its spec, so that it shares nothing with the older one.
fn apart() -> Vec<(&'static str, Value)> {
    vec![
        ("postgres/secretRef/name", json!("pg-late")),
        ("kafka/topics/prefix", json!("late.")),
        ("elasticsearch/index/name", json!("late")),
    ]
}

/// `shop` is ready; then somebody applies `late`.
async fn world(changes: &[(&str, Value)]) -> World {
    let world = World::ready(&[]).await;
    // What the marks in the stores tell is tested apart.
    *world.stores.marks.lock().unwrap() = Marks::default();
    world.cluster.edit(PIPELINE, |shop| {
        shop["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    let database = secret("pg-late", &[("uri", "postgresql://late:hunter8@pg:5432/late")]);
    world.cluster.put(
        "/api/v1/namespaces/store/secrets/pg-late",
        serde_json::to_value(database).unwrap(),
    );
    let mut late = stored(&minimal(), changes);
    late["metadata"]["name"] = json!("late");
    late["metadata"]["uid"] = json!("0001");
    late["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:01Z");
    world.cluster.put(YOUNGER, late);
    world
}

async fn pass_of_late(world: &World) -> Result<(), Error> {
    Box::pin(reconcile("store", "late", &world.context))
        .await
        .map(drop)
}

fn condition(world: &World, kind: &str) -> (String, String) {
    let late = world.cluster.get(YOUNGER).unwrap();
    let conditions = late["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let found = conditions
        .iter()
        .find(|condition| condition["type"] == kind)
        .unwrap();
    let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    (text("reason"), text("message"))
}

#[tokio::test]
async fn each_shared_claim_is_told_by_its_condition_and_nothing_is_touched() {
    for (shared, kind, advice) in [
        (
            "kafka/topics/prefix",
            "TopicsReady",
            "choose another kafka.topics.prefix",
        ),
        (
            "elasticsearch/index/name",
            "IndexReady",
            "choose another elasticsearch.index.name",
        ),
        ("postgres/secretRef/name", "SchemaReady", "name another database"),
    ] {
        let changes: Vec<_> = apart()
            .into_iter()
            .filter(|(field, _)| *field != shared)
            .collect();
        let world = world(&changes).await;
        assert_eq!(
            pass_of_late(&world).await.unwrap_err().reason(),
            "Conflict",
            "{shared}"
        );
        let (reason, message) = condition(&world, kind);
        assert_eq!(reason, "Conflict", "{shared}");
        assert!(
            message.contains("store/shop") && message.contains(advice),
            "{message}"
        );
        assert!(!message.contains("hunter"), "{message}");
        assert_eq!(
            world.done(),
            ["apply commercepipelines/late", "apply serviceaccounts/late"],
            "no Job, nothing in the stores"
        );
        world.pass().await.unwrap();
        assert_eq!(
            world.reason("Ready"),
            "True Running",
            "the older one goes on unharmed"
        );
    }
}

#[tokio::test]
async fn the_same_store_by_another_name_is_the_same_store() {
    let mut changes: Vec<_> = apart().into_iter().skip(2).collect();
    changes.push((
        "kafka/bootstrapServers",
        json!("other:9092,KAFKA.store.svc.cluster.local:9092"),
    ));
    changes.push(("postgres/secretRef/name", json!("pg-late")));
    let world = world(&changes).await;
    assert_eq!(pass_of_late(&world).await.unwrap_err().reason(), "Conflict");
    assert_eq!(condition(&world, "TopicsReady").0, "Conflict");
}

/// Of another's Secrets only the one with the URI is read.
#[tokio::test]
async fn the_same_database_over_tls_is_the_same_database() {
    let mut changes: Vec<_> = apart().into_iter().skip(1).collect();
    let tls = json!({ "caSecretRef": { "name": "pg-ca", "key": "ca.crt" } });
    changes.push(("postgres/tls", tls));
    let world = world(&changes).await;
    assert_eq!(pass_of_late(&world).await.unwrap_err().reason(), "Conflict");
    assert_eq!(condition(&world, "SchemaReady").0, "Conflict");
}

#[tokio::test]
async fn pipelines_apart_do_not_mind_each_other() {
    let world = world(&apart()).await;
    pass_of_late(&world).await.unwrap();
    assert_eq!(condition(&world, "SchemaReady").0, "Migrating");
}

#[tokio::test]
async fn when_the_older_one_is_gone_the_younger_one_goes_on() {
    let mut world = world(&[]).await;
    pass_of_late(&world).await.unwrap_err();
    world.cluster.remove(PIPELINE);
    world.restart_operator();
    pass_of_late(&world).await.unwrap();
    assert_eq!(condition(&world, "SchemaReady").0, "Migrating");
}

#[tokio::test]
async fn a_younger_one_that_is_deleted_removes_nothing_of_the_older_one() {
    let world = world(&[("deletionPolicy", json!("Delete"))]).await;
    pass_of_late(&world).await.unwrap_err();
    world.everything();
    world.cluster.edit(YOUNGER, |late| {
        late["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    pass_of_late(&world).await.unwrap();
    let done = world.everything();
    assert!(done.iter().all(|entry| !entry.starts_with("remove ")), "{done:?}");
    assert!(
        done.iter().any(|entry| entry.starts_with("event Abandoned")),
        "{done:?}"
    );
    assert_eq!(world.cluster.get(YOUNGER), None);
}

#[tokio::test]
async fn without_a_sure_lease_nothing_is_written_into_a_store() {
    let world = World::with(&[("postgres/migrations", json!("Manual"))]);
    world.context.tenure.until(None);
    assert_eq!(world.pass().await.unwrap_err().reason(), "LeaseUncertain");
    let done = world.done();
    assert!(
        !done.contains(&"topics".to_owned()) && !done.contains(&"index".to_owned()),
        "{done:?}"
    );
}

#[tokio::test]
async fn pipelines_are_compared_in_all_namespaces_that_are_served() {
    for (namespaces, reason) in [
        (["elsewhere", "store"], Some("Conflict")),
        (["elsewhere", "other"], None),
    ] {
        let mut world = world(&[]).await;
        world.context.namespaces = namespaces.map(str::to_owned).into();
        let failed = pass_of_late(&world).await.err();
        assert_eq!(
            failed.as_ref().map(Error::reason),
            reason,
            "serving {namespaces:?}"
        );
    }
}
