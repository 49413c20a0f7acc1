//! How far an order has come is told from what PostgreSQL and the index know, and from what is left when one is away.

use chrono::{DateTime, Utc};
use commerce_core::{
    elasticsearch::{ElasticsearchConfig, body},
    index::{self, IndexSpec},
    testing::shared,
};
use elasticsearch::{IndexParts, indices::IndicesRefreshParts};
use pretty_assertions::assert_eq;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Api, PATIENCE, catalogue, config, placed};

const AWAY: &str = "the index can't be asked now";

async fn timeline(api: &Api, id: &str) -> Value {
    let answer = api.get(&format!("/orders/{id}/timeline")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// The stages as "NAME STATE", and of one of them everything.
fn stages(timeline: &Value) -> Vec<String> {
    let stages = timeline["stages"].as_array().unwrap().iter();
    let text = |stage: &Value| {
        format!(
            "{} {}",
            stage["stage"].as_str().unwrap(),
            stage["state"].as_str().unwrap()
        )
    };
    stages.map(text).collect()
}

fn stage<'a>(timeline: &'a Value, name: &str) -> &'a Value {
    let mut stages = timeline["stages"].as_array().unwrap().iter();
    stages.find(|stage| stage["stage"] == name).unwrap()
}

async fn cancel(api: &Api, id: &str) {
    let headers = [("x-correlation-id", "cancelling")];
    let answer = api
        .send(Method::POST, &format!("/orders/{id}/cancel"), &headers, "")
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn without_elasticsearch_what_postgresql_knows_is_told() {
    let (api, pool) = Api::with_catalogue().await;
    let headers = [("x-correlation-id", "placing")];
    let answer = api
        .order_with(&json!({"skuId": 1, "quantity": 1}), &headers)
        .await;
    let id = placed(&answer);
    // Others are in the log, too.
    for _ in 0..3 {
        api.order(&json!({"skuId": 2, "quantity": 1})).await;
    }
    let created_at = api.get(&format!("/orders/{id}")).await.json()["createdAt"].clone();
    let mut expected = json!({
        "orderId": id, "status": "CREATED", "version": 1, "stages": [
            {"stage": "CREATED", "state": "DONE", "at": created_at, "correlationId": "placing"},
            {"stage": "PUBLISHED", "state": "PENDING", "detail": "the relay has not published the event yet"},
            {"stage": "INDEXED", "state": "UNKNOWN", "detail": AWAY},
            {"stage": "SEARCHABLE", "state": "UNKNOWN", "detail": AWAY},
        ]
    });
    assert_eq!(timeline(&api, &id).await, expected);

    // What the relay writes when it has published everything, and when Kafka refused an event.
    sqlx::raw_sql(
        "update relay_checkpoint set snapshot = pg_current_snapshot();
         insert into relay_progress values ('2026-01-31 12:00:00Z', pg_current_snapshot(), pg_current_snapshot(), 0)",
    )
    .execute(&pool)
    .await
    .unwrap();
    expected["stages"][1] = json!({"stage": "PUBLISHED", "state": "DONE", "at": "2026-01-31T12:00:00Z"});
    assert_eq!(timeline(&api, &id).await, expected);

    cancel(&api, &id).await;
    let found = timeline(&api, &id).await;
    assert_eq!(
        (&found["status"], &found["version"]),
        (&json!("CANCELLED"), &json!(2))
    );
    assert_eq!(
        stages(&found),
        [
            "CREATED DONE",
            "CANCELLED DONE",
            "PUBLISHED PENDING",
            "INDEXED UNKNOWN",
            "SEARCHABLE UNKNOWN"
        ]
    );
    assert_eq!(stage(&found, "CREATED"), &expected["stages"][0]);
    let cancelled = stage(&found, "CANCELLED");
    assert_eq!(cancelled["correlationId"], "cancelling");
    let time = |stage: &Value| stage["at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    assert!(time(cancelled) > time(&expected["stages"][0]));

    let refuse = "insert into outbox_parked (outbox_id, xid, aggregate_type, aggregate_id, last_error)
                  select outbox_id, xid, aggregate_type, aggregate_id, 'broker 10.0.0.7 says no' from outbox_log
                   where event_type = 'order.cancelled'";
    sqlx::query(refuse).execute(&pool).await.unwrap();
    assert_eq!(
        stage(&timeline(&api, &id).await, "PUBLISHED"),
        &json!({"stage": "PUBLISHED", "state": "FAILED", "detail": "Kafka refused the event; it is tried again by itself"})
    );
    sqlx::query("update outbox_parked set discarded_at = now(), discard_reason = 'a test'")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(
        stage(&timeline(&api, &id).await, "PUBLISHED"),
        &json!({"stage": "PUBLISHED", "state": "FAILED", "detail": "the event was discarded: it will not be published"})
    );
    sqlx::query("delete from outbox_log")
        .execute(&pool)
        .await
        .unwrap();
    let found = timeline(&api, &id).await;
    assert_eq!(stage(&found, "PUBLISHED")["state"], "UNKNOWN");
    assert_eq!(stage(&found, "CANCELLED").get("correlationId"), None);
}

#[tokio::test]
async fn an_order_that_is_not_there_has_no_timeline() {
    let (api, _pool) = Api::with_catalogue().await;
    api.get("/orders/7/timeline").await.assert_problem(404);
    api.get("/orders/0/timeline").await.assert_problem(400);
}

/// What the indexer writes. The index is refreshed by nobody but the test.
async fn write(config: &ElasticsearchConfig, id: &str, version: i64) {
    write_without(config, id, version, &[]).await;
}

async fn write_without(config: &ElasticsearchConfig, id: &str, version: i64, fields: &[&str]) {
    let status = if version == 1 { "CREATED" } else { "CANCELLED" };
    let mut document = json!({
        "orderId": id, "skuId": 1, "quantity": 1, "userId": "anonymous", "status": status, "version": version,
        "correlationId": "placing", "createdAt": "2026-01-31T12:00:00Z", "publishedAt": "2026-01-31T12:00:01.500Z",
        "indexedAt": "2026-01-31T12:00:02.250Z", "topic": "shop.order", "partition": 3, "offset": 40 + version,
    });
    document
        .as_object_mut()
        .unwrap()
        .retain(|name, _| !fields.contains(&name.as_str()));
    let client = config.client(PATIENCE).unwrap();
    let answer = client
        .index(IndexParts::IndexId(&config.index, id))
        .body(document)
        .send()
        .await;
    body("write a document", answer).await.unwrap();
}

async fn refresh(config: &ElasticsearchConfig) {
    let client = config.client(PATIENCE).unwrap();
    let index = [config.index.as_str()];
    let answer = client
        .indices()
        .refresh(IndicesRefreshParts::Index(&index))
        .send()
        .await;
    body("refresh", answer).await.unwrap();
}

#[tokio::test]
async fn what_the_index_has_is_told_with_its_place_in_kafka() {
    let database = catalogue().await;
    let mut config = config(&database).await;
    let stores = shared().elasticsearch_config().await.unwrap();
    config.elasticsearch = stores.clone();
    let api = Api::start(config).await;
    let id = placed(&api.order(&json!({"skuId": 1, "quantity": 1})).await);
    // There is no index yet.
    assert_eq!(
        stages(&timeline(&api, &id).await),
        [
            "CREATED DONE",
            "PUBLISHED PENDING",
            "INDEXED UNKNOWN",
            "SEARCHABLE UNKNOWN"
        ]
    );
    let mut spec = IndexSpec::new(&stores.index);
    spec.refresh_interval = "-1".to_owned();
    index::ensure(&stores.client(PATIENCE).unwrap(), &spec)
        .await
        .unwrap();
    assert_eq!(
        stages(&timeline(&api, &id).await),
        [
            "CREATED DONE",
            "PUBLISHED PENDING",
            "INDEXED PENDING",
            "SEARCHABLE PENDING"
        ]
    );

    // Filled from PostgreSQL, the index may be ahead of Kafka.
    write_without(&stores, &id, 1, &["publishedAt", "topic", "partition", "offset"]).await;
    assert_eq!(
        stages(&timeline(&api, &id).await),
        [
            "CREATED DONE",
            "PUBLISHED PENDING",
            "INDEXED DONE",
            "SEARCHABLE PENDING"
        ]
    );
    write(&stores, &id, 1).await;
    let found = timeline(&api, &id).await;
    assert_eq!(
        found["stages"].as_array().unwrap()[1..],
        [
            json!({"stage": "PUBLISHED", "state": "DONE", "at": "2026-01-31T12:00:01.500Z",
                   "topic": "shop.order", "partition": 3, "offset": 41}),
            json!({"stage": "INDEXED", "state": "DONE", "at": "2026-01-31T12:00:02.250Z"}),
            json!({"stage": "SEARCHABLE", "state": "PENDING", "detail": "searches do not find the order yet"}),
        ]
    );
    refresh(&stores).await;
    assert_eq!(
        stage(&timeline(&api, &id).await, "SEARCHABLE"),
        &json!({"stage": "SEARCHABLE", "state": "DONE"})
    );

    cancel(&api, &id).await;
    let found = timeline(&api, &id).await;
    assert_eq!(
        stages(&found),
        [
            "CREATED DONE",
            "CANCELLED DONE",
            "PUBLISHED PENDING",
            "INDEXED PENDING",
            "SEARCHABLE PENDING"
        ]
    );
    assert_eq!(
        stage(&found, "SEARCHABLE")["detail"],
        "searches still find version 1"
    );
    write(&stores, &id, 2).await;
    let found = timeline(&api, &id).await;
    assert_eq!(stage(&found, "PUBLISHED")["offset"], 42);
    assert_eq!(stage(&found, "SEARCHABLE")["state"], "PENDING");
    refresh(&stores).await;
    assert_eq!(
        stages(&timeline(&api, &id).await),
        [
            "CREATED DONE",
            "CANCELLED DONE",
            "PUBLISHED DONE",
            "INDEXED DONE",
            "SEARCHABLE DONE"
        ]
    );
}
