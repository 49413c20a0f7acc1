//! Orders are placed once, announced, and told about.

use commerce_core::{event::OrderEvent, order::Status};
use pretty_assertions::assert_eq;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Api, number, until};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn an_order_takes_stock_and_is_announced_in_the_outbox() {
    let (api, pool) = Api::with_catalogue().await;
    let headers = [("x-correlation-id", "from-the-shop"), ("traceparent", TRACE)];
    let answer = api
        .order_with(&json!({"skuId": 3, "quantity": 2, "userId": "ada"}), &headers)
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("x-correlation-id"), Some("from-the-shop"));
    let placed = answer.json();
    let id = placed["orderId"].as_str().unwrap();
    assert_eq!(
        placed,
        json!({"orderId": id, "status": "CREATED", "correlationId": "from-the-shop"})
    );
    assert_eq!(answer.header("location"), Some(format!("/orders/{id}").as_str()));

    let order = api.get(&format!("/orders/{id}")).await;
    let created_at = order.json()["createdAt"].clone();
    assert_eq!(
        order.json(),
        json!({"orderId": id, "skuId": 3, "quantity": 2, "userId": "ada", "status": "CREATED", "version": 1,
               "correlationId": "from-the-shop", "createdAt": created_at})
    );
    assert_eq!(number(&pool, "select stock from skus where sku_id = 3").await, 98);

    let (payload, headers, event_type, aggregate): (Value, Value, String, String) =
        sqlx::query_as("select payload, headers, event_type, aggregate_id from outbox_log")
            .fetch_one(&pool)
            .await
            .unwrap();
    let event: OrderEvent = serde_json::from_value(payload.clone()).unwrap();
    assert_eq!(serde_json::to_value(&event).unwrap()["createdAt"], created_at);
    assert_eq!(
        (event.order_id.as_str(), event.status, event.version),
        (id, Status::Created, 1)
    );
    assert_eq!(
        (event.user_id.as_str(), event.sku_id, event.quantity),
        ("ada", 3, 2)
    );
    assert_eq!(
        (event_type.as_str(), aggregate.as_str()),
        (event.event_type.topic(), id)
    );
    assert_eq!(headers, json!({"traceparent": TRACE}));
    api.stop().await;
}

#[tokio::test]
async fn an_unchanged_order_is_not_sent_again() {
    let (api, pool) = Api::with_catalogue().await;
    let id = api.order(&json!({"skuId": 1, "quantity": 1})).await.json()["orderId"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("/orders/{id}");
    assert_eq!(api.get(&path).await.header("etag"), Some("\"1\""));
    for known in ["\"1\"", "W/\"1\"", "\"0\", \"1\"", "*"] {
        let answer = api
            .send(Method::GET, &path, &[("if-none-match", known)], "")
            .await;
        assert_eq!(
            (answer.status, answer.body.as_str(), answer.header("etag")),
            (304, "", Some("\"1\"")),
            "{known}"
        );
    }
    sqlx::query("update orders set version = 2")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(
        api.send(Method::GET, &path, &[("if-none-match", "\"1\"")], "")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_replay_gets_the_first_answer_and_changes_nothing() {
    let (api, pool) = Api::with_catalogue().await;
    let request = json!({"skuId": 2, "quantity": 5, "userId": "ada", "idempotencyKey": "k"});
    let first = api.order(&request).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, None));
    // What came of the order since does not change the first answer.
    sqlx::query("update orders set status = 'CANCELLED', version = 2")
        .execute(&pool)
        .await
        .unwrap();

    let by_header = json!({"skuId": 2, "quantity": 5, "userId": "ada"});
    for key in ["k", "\"k\""] {
        let replay = api
            .order_with(
                &by_header,
                &[("idempotency-key", key), ("x-correlation-id", "again")],
            )
            .await;
        assert_eq!((replay.status, &replay.body), (200, &first.body));
        assert_eq!(replay.header("idempotency-replayed"), Some("true"));
        assert_eq!(replay.header("location"), first.header("location"));
        assert_eq!(replay.header("x-correlation-id"), Some("again"));
    }
    assert_eq!(number(&pool, "select count(*) from orders").await, 1);
    assert_eq!(number(&pool, "select count(*) from outbox_log").await, 1);
    assert_eq!(number(&pool, "select stock from skus where sku_id = 2").await, 95);
    assert_eq!(api.metric("mcl_orders_create_attempt_total").await, 3);
    assert_eq!(api.metric("mcl_orders_create_success_total").await, 1);
    assert_eq!(api.metric("mcl_orders_create_recovered_total").await, 2);
}

#[tokio::test]
async fn a_replay_that_redis_remembers_is_the_same_answer() {
    let (api, pool) = Api::with_catalogue().await;
    let request = json!({"skuId": 2, "quantity": 5, "userId": "ada", "idempotencyKey": "k"});
    let first = api.order(&request).await;
    // With the row out of sight, only Redis can know.
    until("Redis answers the replay", async || {
        assert_eq!(api.order(&request).await.body, first.body);
        let mut hidden = pool.begin().await.unwrap();
        sqlx::query("lock table orders")
            .execute(&mut *hidden)
            .await
            .unwrap();
        let replay = tokio::time::timeout(std::time::Duration::from_millis(500), api.order(&request))
            .await
            .ok()?;
        assert_eq!((replay.status, &replay.body), (200, &first.body));
        assert_eq!(replay.header("idempotency-replayed"), Some("true"));
        let other = api
            .order(&json!({"skuId": 2, "quantity": 6, "userId": "ada", "idempotencyKey": "k"}))
            .await;
        other.assert_problem(422);
        Some(())
    })
    .await;
}

#[tokio::test]
async fn a_key_belongs_to_one_request_of_one_user() {
    let (api, _pool) = Api::with_catalogue().await;
    let order = async |user: &str, sku: i64, quantity: i64| {
        api.order(&json!({"skuId": sku, "quantity": quantity, "userId": user, "idempotencyKey": "k"}))
            .await
    };
    assert_eq!(order("ada", 1, 1).await.status, 200);
    for (sku, quantity) in [(1, 2), (2, 1), (99, 1)] {
        order("ada", sku, quantity).await.assert_problem(422);
    }
    let other = order("bob", 1, 2).await;
    assert_eq!((other.status, other.header("idempotency-replayed")), (200, None));
}

#[tokio::test]
async fn a_refusal_is_judged_anew() {
    let (api, pool) = Api::with_catalogue().await;
    let request = json!({"skuId": 4, "quantity": 101, "idempotencyKey": "k"});
    let problem = api.order(&request).await.assert_problem(409);
    assert_eq!(
        (&problem["type"], &problem["available"]),
        (&json!("tag:commerce.lab,2026:out-of-stock"), &json!(100))
    );
    assert_eq!(problem["detail"], "SKU 4 has 100 pieces left, 101 were ordered");
    sqlx::query("update skus set stock = 101 where sku_id = 4")
        .execute(&pool)
        .await
        .unwrap();
    let answer = api.order(&request).await;
    assert_eq!(
        (answer.status, answer.header("idempotency-replayed")),
        (200, None)
    );
    assert_eq!(number(&pool, "select stock from skus where sku_id = 4").await, 0);

    api.order(&json!({"skuId": 9, "quantity": 1, "idempotencyKey": "new"}))
        .await
        .assert_problem(404);
    assert_eq!(api.metric("mcl_orders_create_failed_total").await, 2);
}

#[tokio::test]
async fn the_relay_is_woken_after_orders() {
    let (api, pool) = Api::with_catalogue().await;
    let mut listener = sqlx::postgres::PgListener::connect_with(&pool).await.unwrap();
    listener.listen(commerce_core::event::WAKE_CHANNEL).await.unwrap();
    for _ in 0..3 {
        assert_eq!(api.order(&json!({"skuId": 1, "quantity": 1})).await.status, 200);
    }
    tokio::time::timeout(crate::support::PATIENCE, listener.recv())
        .await
        .unwrap()
        .unwrap();
}
