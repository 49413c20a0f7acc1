//! Orders are cancelled once, however often and by however many that is asked.

use commerce_core::{event::OrderEvent, order::Status};
use futures::future::join_all;
use pretty_assertions::assert_eq;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::{Answer, Api, PATIENCE, catalogue, config, number, placed, until};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn cancel(api: &Api, id: &str, headers: &[(&str, &str)]) -> Answer {
    let path = format!("/orders/{id}/cancel");
    api.send(Method::POST, &path, headers, "").await
}

async fn stock(pool: &PgPool) -> i64 {
    number(pool, "select stock from skus where sku_id = 3").await
}

#[tokio::test]
async fn a_cancelled_order_gives_its_pieces_back_and_is_announced() {
    let (api, pool) = Api::with_catalogue().await;
    let request = json!({"skuId": 3, "quantity": 2, "userId": "ada"});
    let answer = api.order_with(&request, &[("x-correlation-id", "placing")]).await;
    let id = placed(&answer);
    let mut order = api.get(&format!("/orders/{id}")).await.json();
    assert_eq!(stock(&pool).await, 98);

    let headers = [("x-correlation-id", "cancelling"), ("traceparent", TRACE)];
    let answer = cancel(&api, &id, &headers).await;
    order["status"] = json!("CANCELLED");
    order["version"] = json!(2);
    assert_eq!((answer.status, answer.json()), (200, order.clone()));
    assert_eq!(answer.header("etag"), Some("\"2\""));
    assert_eq!(answer.header("x-correlation-id"), Some("cancelling"));
    assert_eq!(api.get(&format!("/orders/{id}")).await.json(), order);
    assert_eq!(stock(&pool).await, 100);

    let events =
        "select payload, headers, event_type, aggregate_type, aggregate_id, aggregate_version, correlation_id
                    from outbox_events order by outbox_id";
    let events: Vec<(Value, Value, String, String, String, i64, String)> =
        sqlx::query_as(events).fetch_all(&pool).await.unwrap();
    assert_eq!(events.len(), 2);
    let (payload, headers, event_type, aggregate_type, aggregate, version, correlation) = &events[1];
    let event: OrderEvent = serde_json::from_value(payload.clone()).unwrap();
    assert_eq!(
        (event.status, event.version, event.event_type.topic()),
        (Status::Cancelled, 2, event_type.as_str())
    );
    // But for what a cancellation changes, it says what the order's creation said.
    let mut created = events[0].0.clone();
    created["status"] = json!("CANCELLED");
    created["version"] = json!(2);
    created["eventType"] = json!("ORDER_CANCELLED");
    let created: OrderEvent = serde_json::from_value(created).unwrap();
    assert_eq!(event, created);
    assert_eq!(event.correlation_id, "placing");
    assert_eq!(correlation, "cancelling");
    assert_eq!(headers, &json!({"traceparent": TRACE}));
    assert_eq!((aggregate_type.as_str(), aggregate, *version), ("order", &id, 2));
}

#[tokio::test]
async fn a_repeated_cancellation_is_answered_like_the_first_and_changes_nothing() {
    let (api, pool) = Api::with_catalogue().await;
    let id = placed(&api.order(&json!({"skuId": 3, "quantity": 5})).await);
    let first = cancel(&api, &id, &[("if-match", "\"1\"")]).await;
    assert_eq!(first.status, 200, "{first:?}");
    for headers in [&[][..], &[("if-match", "\"1\"")], &[("if-match", "\"2\"")]] {
        let again = cancel(&api, &id, headers).await;
        assert_eq!((again.status, &again.body), (200, &first.body));
        assert_eq!(again.header("etag"), first.header("etag"));
    }
    assert_eq!(stock(&pool).await, 100);
    assert_eq!(number(&pool, "select count(*) from outbox_log").await, 2);
    assert_eq!(
        number(&pool, "select version from skus where sku_id = 3").await,
        3
    );
}

#[tokio::test]
async fn only_the_version_that_if_match_names_is_cancelled() {
    let (api, pool) = Api::with_catalogue().await;
    let order = json!({"skuId": 3, "quantity": 1});
    let id = placed(&api.order(&order).await);
    for other in ["\"2\"", "W/\"1\"", "\"0\", \"2\"", "\"01\"", "\"one\""] {
        let problem = cancel(&api, &id, &[("if-match", other)])
            .await
            .assert_problem(412);
        assert_eq!(
            problem["detail"],
            "the order has version 1, which If-Match does not name; read it again"
        );
    }
    for malformed in ["1", "", "\"1", "*, \"1\"", "\"1\" \"2\""] {
        let problem = cancel(&api, &id, &[("if-match", malformed)])
            .await
            .assert_problem(400);
        assert_eq!(problem["errors"][0]["field"], "If-Match");
        assert_eq!(
            problem["errors"][0]["message"],
            format!("is {malformed}; it takes * or ETags such as \"1\", with commas between them")
        );
    }
    assert_eq!(stock(&pool).await, 99);
    for headers in [
        &[("if-match", "\"1\"")][..],
        &[("if-match", "*")],
        &[("if-match", "W/\"1\", \"7\" ,\"1\"")],
        &[("if-match", "\"7\""), ("if-match", "\"1\"")],
    ] {
        let id = placed(&api.order(&order).await);
        assert_eq!(cancel(&api, &id, headers).await.status, 200, "{headers:?}");
    }
    assert_eq!(stock(&pool).await, 99);
}

#[tokio::test]
async fn an_order_that_is_not_there_is_not_cancelled() {
    let (api, _pool) = Api::with_catalogue().await;
    for headers in [&[][..], &[("if-match", "*")]] {
        let problem = cancel(&api, "7", headers).await.assert_problem(404);
        assert_eq!(problem["detail"], "there is no order 7");
    }
    cancel(&api, "seven", &[]).await.assert_problem(400);
}

#[tokio::test]
async fn a_key_leads_to_its_order_after_it_was_cancelled_too() {
    let (api, pool) = Api::with_catalogue().await;
    let request = json!({"skuId": 3, "quantity": 4, "userId": "ada", "idempotencyKey": "k"});
    let first = api.order(&request).await;
    assert_eq!(cancel(&api, &placed(&first), &[]).await.status, 200);
    let replay = api.order(&request).await;
    assert_eq!((replay.status, &replay.body), (200, &first.body));
    assert_eq!(stock(&pool).await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_cancellations_at_once_on_two_servers_give_the_pieces_back_once() {
    let database = catalogue().await;
    let pool = database.pool();
    let apis = [
        Api::start(config(&database).await).await,
        Api::start(config(&database).await).await,
    ];
    let id = placed(&apis[0].order(&json!({"skuId": 3, "quantity": 7})).await);
    let answers = join_all((0..50).map(|copy| cancel(&apis[copy % 2], &id, &[]))).await;
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (200, &answers[0].body));
    }
    assert_eq!(stock(&pool).await, 100);
    let cancelled = "select count(*) from outbox_log where event_type = 'order.cancelled'";
    assert_eq!(number(&pool, cancelled).await, 1);
}

/// Else the two could wait for each other: that order holds the SKU, and waits for its key's order to be cancelled or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_with_the_key_of_one_that_waits_to_be_cancelled_need_not_wait() {
    let (api, pool) = Api::with_catalogue().await;
    let request = json!({"skuId": 3, "quantity": 1, "userId": "ada", "idempotencyKey": "k"});
    let id = placed(&api.order(&request).await);
    let mut transaction = pool.begin().await.unwrap();
    sqlx::raw_sql("set local statement_timeout = '20s'; select from skus where sku_id = 3 for no key update")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let cancelling = async { cancel(&api, &id, &[]).await };
    let ordering = async {
        let waiting = "select count(*) from pg_stat_activity
                        where datname = current_database() and wait_event_type = 'Lock'";
        until("the cancellation waits for the SKU", async || {
            (number(&pool, waiting).await == 1).then_some(())
        })
        .await;
        let insert = "insert into orders (user_id, sku_id, quantity, status, idempotency_key, request_hash, correlation_id)
                      values ('ada', 3, 1, 'CREATED', 'k', '', 'c')
                          on conflict on constraint orders_idempotency do nothing";
        let inserted = sqlx::query(insert).execute(&mut *transaction).await.unwrap();
        assert_eq!(inserted.rows_affected(), 0);
        transaction.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(cancelling, ordering);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(stock(&pool).await, 100);
}

#[tokio::test]
async fn the_relay_is_woken_after_a_cancellation() {
    let (api, pool) = Api::with_catalogue().await;
    let id = placed(&api.order(&json!({"skuId": 3, "quantity": 1})).await);
    let mut listener = sqlx::postgres::PgListener::connect_with(&pool).await.unwrap();
    listener.listen(commerce_core::event::WAKE_CHANNEL).await.unwrap();
    // The order's own notification may still be to come.
    let silence = std::time::Duration::from_millis(200);
    while tokio::time::timeout(silence, listener.recv()).await.is_ok() {}
    assert_eq!(cancel(&api, &id, &[]).await.status, 200);
    tokio::time::timeout(PATIENCE, listener.recv())
        .await
        .unwrap()
        .unwrap();
}
