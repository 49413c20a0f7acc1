//! What applying a pipeline would change: told, and not done.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
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
    reconcile::World,
};

/// Stores as they are found.
#[derive(Clone, Debug, Default)]
struct Found {
    away: Vec<&'static str>,
    schema: i64,
    partitions: i32,
    index: Option<String>,
}

#[async_trait]
impl Survey for Found {
    async fn away(&self, _: &Pipeline) -> Vec<Away> {
        let away = |store: &&'static str| Away {
            store,
            field: "spec",
            problem: "no answer within 5 s".to_owned(),
        };
        self.away.iter().map(away).collect()
    }

    async fn schema_version(&self, _: &PgConnectOptions) -> Result<(i64, i64), String> {
        Ok((self.schema, 3))
    }

    async fn partitions(&self, kafka: &Kafka) -> Result<BTreeMap<String, i32>, String> {
        let names = commerce_core::topics::names(&kafka.connect);
        let there = names.into_iter().filter(|_| self.partitions > 0);
        Ok(there.map(|name| (name, self.partitions)).collect())
    }

    async fn active_index(&self, elasticsearch: &Elasticsearch) -> Result<Option<String>, String> {
        let current = format!("{}-{}-1", elasticsearch.index.name, elasticsearch.index.hash());
        Ok(self
            .index
            .clone()
            .map(|index| if index.is_empty() { current } else { index }))
    }
}

/// Stores in which the pipeline is.
fn prepared() -> Found {
    Found {
        away: Vec::new(),
        schema: 3,
        partitions: 6,
        index: Some(String::new()),
    }
}

fn document(changes: &[(&str, Value)]) -> Document {
    let mut pipeline = stored(&minimal(), changes);
    pipeline["metadata"] = json!({ "name": "shop", "namespace": "store" });
    Document::all(&pipeline.to_string(), None).unwrap().remove(0)
}

async fn planned(world: &World, found: Found, changes: &[(&str, Value)]) -> Plan {
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
    let plan = planned(&world, Found::default(), &[]).await;
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
    assert!(
        stores.last().unwrap().starts_with("Elasticsearch: index orders-"),
        "{stores:?}"
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
    let found = Found {
        partitions: 3,
        ..prepared()
    };
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
        "~ Kafka: topic order.created: 3 -> 6 partitions\n",
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
    let found = Found {
        away: vec!["Kafka", "PostgreSQL"],
        ..Found::default()
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
    let other = Found {
        index: Some("orders-00000000-1".to_owned()),
        ..prepared()
    };
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
