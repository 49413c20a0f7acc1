//! What applying a pipeline would change: told, and not done.

use std::{collections::BTreeMap, slice::from_ref, sync::Arc};

use async_trait::async_trait;
use commerce_core::{
    index::{Found, IndexSpec},
    owner::{Mark, Owner},
    topics::Topic,
};
use commerce_operator::{
    plan::{
        self, Plan,
        difference::{Action, Change},
        document::Document,
        print,
        stores::Survey,
    },
    reconcile::{
        names,
        stores::Away,
        validate::{Elasticsearch, Kafka, Pipeline},
    },
};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;

use crate::{
    cluster::PIPELINE,
    fixtures::{minimal, stored},
    world::World,
};

/// Stores as they are found.
#[derive(Clone, Debug, Default)]
struct AsFound {
    away: Vec<&'static str>,
    schema: Option<i64>,
    topics: BTreeMap<String, Topic>,
    index: Found,
    /// Whose the tables are.
    owner: Option<Owner>,
}

#[async_trait]
impl Survey for AsFound {
    async fn away(&self, _: &Pipeline) -> Vec<Away> {
        let away = |store: &&'static str| Away {
            store,
            field: "spec",
            problem: "no answer within 5 s".to_owned(),
        };
        self.away.iter().map(away).collect()
    }

    async fn schema_version(&self, _: &PgConnectOptions) -> Result<(i64, i64), String> {
        let version = self.schema.ok_or("database \"app\" does not exist")?;
        Ok((version, 3))
    }

    async fn topics(&self, _: &Kafka) -> Result<BTreeMap<String, Topic>, String> {
        Ok(self.topics.clone())
    }

    async fn index(&self, _: &Elasticsearch) -> Result<Found, String> {
        Ok(self.index.clone())
    }

    async fn schema_mark(&self, _: &PgConnectOptions) -> Result<Mark, String> {
        Ok(self.owner.clone().into())
    }

    async fn index_mark(&self, _: &Elasticsearch) -> Result<Mark, String> {
        Ok(Mark::Free)
    }
}

/// Stores in which the pipeline is.
fn prepared() -> AsFound {
    let topic = Topic {
        partitions: 6,
        replication_factor: 1,
        ..Topic::default()
    };
    let names = [
        "order.created",
        "order.created.dlq",
        "order.cancelled",
        "order.cancelled.dlq",
    ];
    AsFound {
        away: Vec::new(),
        schema: Some(3),
        topics: names.map(|name| (name.to_owned(), topic.clone())).into(),
        index: Found::as_wanted(&IndexSpec::new("orders")),
        owner: None,
    }
}

fn empty() -> AsFound {
    AsFound {
        schema: Some(0),
        ..AsFound::default()
    }
}

fn document(changes: &[(&str, Value)]) -> Document {
    let mut pipeline = stored(&minimal(), changes);
    pipeline["metadata"] = json!({ "name": "shop", "namespace": "store" });
    Document::all(&pipeline.to_string(), None).unwrap().remove(0)
}

async fn planned(world: &World, found: AsFound, changes: &[(&str, Value)]) -> Plan {
    let before = world.cluster.version();
    let plan = plan::plan(
        &world.cluster.client(),
        Arc::new(found),
        &document(changes),
        "store",
    )
    .await;
    assert_eq!(world.cluster.version(), before, "a plan changes nothing");
    assert_eq!(*world.stores.journal.lock().unwrap(), Vec::<String>::new());
    plan.unwrap()
}

fn titles(changes: &[Change]) -> Vec<String> {
    let title = |change: &Change| format!("{:?} {}", change.action, change.name);
    changes.iter().map(title).collect()
}

#[tokio::test]
async fn a_new_pipeline_is_told_whole() {
    let world = World::with(&[]);
    world.cluster.remove(PIPELINE);
    let plan = planned(&world, empty(), &[]).await;
    assert!(plan.changes.iter().all(|change| change.action == Action::Create));
    let names: Vec<_> = plan.changes.iter().map(|change| change.name.as_str()).collect();
    for name in ["shop", "shop-api", "shop-relay", "shop-indexer"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert!(
        names.iter().any(|name| name.starts_with("shop-migrate-")),
        "{names:?}"
    );
    let stores: Vec<_> = plan
        .stores
        .iter()
        .map(|change| format!("{}: {}", change.store, change.what))
        .collect();
    assert_eq!(
        stores[0],
        "PostgreSQL: schema: version 0 -> 3, by the migration Job"
    );
    assert_eq!(
        stores[1],
        "Kafka: topic order.created: new, with 6 partitions and replication factor 1"
    );
    let index = IndexSpec::new("orders").wanted_index();
    assert_eq!(
        stores[5..],
        [
            "Elasticsearch: index template orders: new".to_owned(),
            format!("Elasticsearch: alias orders: new, to the new index {index}"),
        ]
    );
    let text = print::text(&plan, false);
    assert!(
        text.contains("    + kind: Deployment") && !text.contains("hunter"),
        "{text}"
    );
    assert!(!serde_json::to_string(&plan).unwrap().contains("hunter"));
}

#[tokio::test]
async fn what_is_there_already_is_no_change() {
    let world = World::ready(&[]).await;
    let plan = planned(&world, prepared(), &[]).await;
    assert!(
        plan.is_empty() && plan.notes.is_empty() && plan.stops.is_none(),
        "{plan:?}"
    );
    assert!(print::text(&plan, true).ends_with("\nNo changes.\n"));
}

#[tokio::test]
async fn a_change_is_told_field_by_field_to_the_end_of_its_rollout() {
    let world = World::ready(&[("api/ingress", json!({ "host": "orders.example.com" }))]).await;
    world.cluster.edit(PIPELINE, |pipeline| {
        let applied = json!({ "spec": { "api": { "ingress": { "host": "orders.example.com" } } } });
        pipeline["metadata"]["annotations"] = json!({ plan::document::LAST_APPLIED: applied.to_string() });
    });
    let mut found = prepared();
    found.topics.get_mut("order.created").unwrap().partitions = 3;
    let changes = [("image/tag", json!("2.0.0")), ("indexer/replicas", json!(3))];
    let plan = planned(&world, found, &changes).await;
    let titles = titles(&plan.changes);
    for expected in [
        "Update shop",
        "Update shop-indexer",
        "Update shop-relay",
        "Update shop-api",
        "Delete shop",
    ] {
        assert!(
            titles.contains(&expected.to_owned()),
            "{expected} is not in {titles:?}"
        );
    }
    assert!(
        titles
            .iter()
            .any(|title| title.starts_with("Create shop-migrate-")),
        "{titles:?}"
    );
    let text = print::text(&plan, false);
    for expected in [
        "    ~ spec.image.tag: \"1.2.3\" -> \"2.0.0\"\n",
        "    - spec.api.ingress: {",
        "    ~ spec.replicas: 2 -> 3\n",
        "    ~ spec.template.spec.containers[api].image: \"ghcr.io/example/commerce-api:1.2.3\" -> \"ghcr.io/example/commerce-api:2.0.0\"\n",
        "~ Kafka: topic order.created: partitions: 3 -> 6\n",
        "Nothing has been changed.\n",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    assert!(
        !text.contains(names::APPLIED) && !text.contains("resourceVersion"),
        "{text}"
    );
    assert!(print::text(&plan, true).contains("\u{1b}[33m    ~ spec.image.tag"));
}

#[tokio::test]
async fn a_store_that_can_not_be_reached_from_here_is_named_and_the_rest_is_told() {
    let world = World::with(&[]);
    let found = AsFound {
        away: vec!["Kafka", "PostgreSQL"],
        ..empty()
    };
    let plan = planned(&world, found, &[]).await;
    assert_eq!(plan.notes.len(), 2, "{:?}", plan.notes);
    assert_eq!(plan.notes[0], "not looked at: Kafka (spec): no answer within 5 s");
    assert!(plan.stores.iter().all(|change| change.store == "Elasticsearch"));
    assert!(titles(&plan.changes).contains(&"Create shop-api".to_owned()));
}

#[tokio::test]
async fn what_would_stop_the_operator_is_told() {
    let world = World::ready(&[]).await;
    let mut other = prepared();
    let index = other.index.indices.pop_first().unwrap().1;
    other.index.indices.insert("legacy".to_owned(), index);
    let plan = planned(&world, other, &[("image/tag", json!("2.0.0"))]).await;
    assert!(plan.stops.unwrap().contains("whose mapping differs"));

    world.cluster.remove("/api/v1/namespaces/store/secrets/pg");
    let plan = planned(&world, prepared(), &[]).await;
    assert!(
        plan.stops
            .unwrap()
            .contains("names the Secret pg, which does not exist")
    );

    let plan = planned(&world, prepared(), &[("suspend", json!(true))]).await;
    assert_eq!(plan.notes, ["it is suspended: nothing else would change"]);
}

#[tokio::test]
async fn an_index_that_would_be_filled_anew_is_told_with_its_job() {
    let world = World::ready(&[]).await;
    let changes = [
        (
            "elasticsearch/index/mappings",
            json!({ "properties": { "note": { "type": "keyword" } } }),
        ),
        ("image/tag", json!("2.0.0")),
    ];
    let plan = planned(&world, prepared(), &changes).await;
    assert_eq!(plan.stops, None);
    let titles = titles(&plan.changes);
    assert!(
        titles
            .iter()
            .any(|title| title.starts_with("Create shop-reindex-")),
        "{titles:?}"
    );
    assert!(titles.contains(&"Update shop-api".to_owned()), "{titles:?}");
    let stores: Vec<_> = plan.stores.iter().map(|change| change.what.clone()).collect();
    let mut wanted = IndexSpec::new("orders");
    let before = wanted.wanted_index();
    wanted
        .properties
        .insert("note".into(), json!({ "type": "keyword" }));
    assert_eq!(
        stores,
        [
            "index template orders: template.mappings.properties.note.type: not set -> keyword".to_owned(),
            format!(
                "alias orders: index: {before} -> {}, which is filled from PostgreSQL first while {before} serves",
                wanted.wanted_index()
            ),
        ]
    );
    assert_eq!(plan.notes, [""; 0]);
}

#[tokio::test]
async fn an_api_server_that_is_away_is_no_plan() {
    let world = World::with(&[]);
    world.cluster.go_away();
    let plan = plan::plan(
        &world.cluster.client(),
        Arc::new(prepared()),
        &document(&[]),
        "store",
    )
    .await;
    assert!(
        plan.unwrap_err()
            .to_string()
            .starts_with("reading the CommercePipeline shop")
    );
}

#[tokio::test]
async fn what_others_have_changed_in_the_stores_is_told_and_what_would_stay_is_a_note() {
    let config = ("kafka/topics/config", json!({ "retention.ms": "604800000" }));
    let world = World::ready(from_ref(&config)).await;
    let mut found = prepared();
    for topic in found.topics.values_mut() {
        topic.config.insert("retention.ms".into(), "604800000".into());
    }
    let topic = found.topics.get_mut("order.created").unwrap();
    topic.config.insert("retention.ms".into(), "1000".into());
    topic.partitions = 12;
    found.index.template.as_mut().unwrap()["priority"] = json!(1);

    let plan = planned(&world, found.clone(), from_ref(&config)).await;
    let stores: Vec<_> = plan.stores.iter().map(|change| change.what.as_str()).collect();
    assert_eq!(
        stores,
        [
            "topic order.created: retention.ms: 1000 -> 604800000",
            "index template orders: priority: 1 -> 206"
        ]
    );
    assert_eq!(
        plan.notes,
        [
            "would stay as it is: topic order.created: partitions are 12, spec says 6 (Kafka can't take partitions away: set kafka.topics.partitions to 12)"
        ]
    );

    let observe = ("driftPolicy", json!("Observe"));
    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["spec"]["driftPolicy"] = observe.1.clone();
    });
    let plan = planned(&world, found.clone(), &[config.clone(), observe.clone()]).await;
    assert!(plan.is_empty(), "{plan:?}");
    assert!(
        plan.notes[0].contains("retention.ms is 1000, spec says 604800000")
            && plan.notes[0].contains("priority is 1"),
        "{:?}",
        plan.notes
    );

    let plan = planned(&world, found, &[config, observe, ("image/tag", json!("2.0.0"))]).await;
    assert_eq!(
        plan.stores.len(),
        2,
        "a change of the spec puts it right: {:?}",
        plan.stores
    );
}

#[tokio::test]
async fn a_database_that_is_not_there_yet_stops_nothing() {
    let world = World::with(&[]);
    let plan = planned(&world, AsFound::default(), &[]).await;
    assert_eq!(plan.stops, None);
    assert!(
        plan.stores[0]
            .what
            .contains("what there is can't be read: database"),
        "{:?}",
        plan.stores
    );
    assert!(titles(&plan.changes).contains(&"Create shop-api".to_owned()));
}

#[tokio::test]
async fn a_conflict_with_an_older_pipeline_is_told() {
    let world = World::with(&[]);
    world.cluster.remove(PIPELINE);
    let mut older = stored(&minimal(), &[]);
    older["metadata"] = json!({
        "name": "early", "namespace": "other", "uid": "0001", "creationTimestamp": "2026-01-01T00:00:00Z",
    });
    let path = PIPELINE.replace("store", "other").replace("shop", "early");
    world.cluster.put(&path, older);
    let changes = [
        ("kafka/bootstrapServers", json!("kafka.other.svc:9092")),
        ("elasticsearch/index/name", json!("mine")),
    ];
    let plan = planned(&world, empty(), &changes).await;
    let stops = plan.stops.unwrap();
    assert!(
        stops.contains("the pipeline other/early is older and has the topics"),
        "{stops}"
    );
    assert_eq!(
        plan.stores
            .iter()
            .filter(|change| change.store != "PostgreSQL")
            .count(),
        0
    );
}

#[tokio::test]
async fn without_the_right_to_see_other_pipelines_the_rest_is_told() {
    let world = World::ready(&[]).await;
    world
        .cluster
        .forbid("/apis/commerce.lab/v1alpha1/commercepipelines");
    let plan = planned(&world, prepared(), &[("image/tag", json!("2.0.0"))]).await;
    assert_eq!(plan.stops, None);
    assert!(
        plan.notes[0].starts_with("not compared with all other pipelines"),
        "{:?}",
        plan.notes
    );
    assert!(titles(&plan.changes).contains(&"Update shop-api".to_owned()));
}

#[tokio::test]
async fn the_replicas_that_an_autoscaler_begins_with_are_told() {
    let autoscaling = [
        (
            "api/autoscaling",
            json!({ "minReplicas": 3, "maxReplicas": 6, "targetCPUUtilization": 60 }),
        ),
        ("api/resources", json!({ "requests": { "cpu": "100m" } })),
    ];
    let world = World::with(&[]);
    world.cluster.remove(PIPELINE);
    let plan = planned(&world, empty(), &autoscaling).await;
    assert_eq!(plan.stops, None);
    let text = print::text(&plan, false);
    assert!(text.contains("kind: HorizontalPodAutoscaler"), "{text}");
    assert!(text.contains("replicas: 3"), "{text}");

    let world = World::ready(&[("api/replicas", json!(4)), autoscaling[1].clone()]).await;
    let mut changes = autoscaling.to_vec();
    changes.push(("api/replicas", json!(4)));
    let plan = planned(&world, prepared(), &changes).await;
    assert_eq!(plan.stops, None);
    let text = print::text(&plan, false);
    assert!(text.contains("kind: HorizontalPodAutoscaler"), "{text}");
    assert!(!text.contains("spec.replicas"), "four go on: {text}");
}

#[tokio::test]
async fn stores_of_another_clusters_pipeline_end_a_plan() {
    let world = World::with(&[]);
    let owner = Owner {
        uid: "77aa".to_owned(),
        namespace: "store".to_owned(),
        name: "shop".to_owned(),
        cluster: "c2".to_owned(),
        generation: 1,
    };
    let found = AsFound {
        owner: Some(owner),
        ..prepared()
    };
    let plan = planned(&world, found, &[]).await;
    let stops = plan.stops.unwrap();
    assert!(
        stops.contains("store/shop (uid 77aa) of another cluster"),
        "{stops}"
    );
    assert_eq!(plan.stores, []);
}
