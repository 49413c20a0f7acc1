//! Many requests at once: nothing is sold twice, and one key gives one order.

use futures::future::join_all;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use crate::support::{Api, catalogue, config, number};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_buyers_share_fifty_pieces() {
    let database = catalogue().await;
    let pool = database.pool();
    sqlx::query("update skus set stock = 50 where sku_id = 1")
        .execute(&pool)
        .await
        .unwrap();
    let apis = [
        Api::start(config(&database).await).await,
        Api::start(config(&database).await).await,
    ];
    let request = json!({"skuId": 1, "quantity": 1});
    let answers = join_all((0..200).map(|buyer| apis[buyer % 2].order_in_a_crowd(&request))).await;
    let (sold, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!((sold.len(), refused.len()), (50, 150));
    for answer in refused {
        assert_eq!(answer.assert_problem(409)["available"], 0);
    }
    assert_eq!(number(&pool, "select stock from skus where sku_id = 1").await, 0);
    assert_eq!(number(&pool, "select count(*) from orders").await, 50);
    assert_eq!(
        number(&pool, "select count(distinct aggregate_id) from outbox_log").await,
        50
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_on_two_servers_at_once_is_one_order() {
    let database = catalogue().await;
    let pool = database.pool();
    let apis = [
        Api::start(config(&database).await).await,
        Api::start(config(&database).await).await,
    ];
    let request = json!({"skuId": 1, "quantity": 3, "userId": "ada", "idempotencyKey": "once"});
    let answers = join_all((0..100).map(|copy| apis[copy % 2].order_in_a_crowd(&request))).await;
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (200, &answers[0].body));
    }
    let first = answers
        .iter()
        .filter(|answer| answer.header("idempotency-replayed").is_none());
    assert_eq!(first.count(), 1);
    assert_eq!(number(&pool, "select count(*) from orders").await, 1);
    assert_eq!(number(&pool, "select count(*) from outbox_log").await, 1);
    assert_eq!(number(&pool, "select stock from skus where sku_id = 1").await, 97);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_for_different_skus_at_once_is_one_order_and_takes_stock_of_one() {
    let (api, pool) = Api::with_catalogue().await;
    for round in 0..10 {
        let requests: Vec<Value> = (1..=8)
            .map(|sku| json!({"skuId": sku, "quantity": 1, "userId": "ada", "idempotencyKey": round.to_string()}))
            .collect();
        let answers = join_all(requests.iter().map(|request| api.order_in_a_crowd(request))).await;
        let (placed, reused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
        assert_eq!((placed.len(), reused.len()), (1, 7), "{answers:?}");
        for answer in reused {
            answer.assert_problem(422);
        }
    }
    assert_eq!(number(&pool, "select count(*) from orders").await, 10);
    assert_eq!(number(&pool, "select sum(stock)::bigint from skus").await, 790);
}
