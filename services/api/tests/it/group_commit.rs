//! Orders that share transactions do not notice each other.

use std::{collections::HashMap, time::Duration};

use commerce_api::{Config, config::GroupCommit, seed::seed};
use commerce_core::{
    postgres::{self, PostgresConfig},
    testing::Postgres,
};
use futures::{StreamExt as _, future::join_all, stream};
use pretty_assertions::assert_eq;
use secrecy::SecretString;
use serde_json::json;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres as Dialect, Transaction};

use crate::support::{Answer, Api, catalogue, config, number, until};

/// An API with one transaction at a time and the given limits.
async fn api(max_orders: usize, queue: usize) -> (Api, PgPool) {
    let database = catalogue().await;
    let group_commit = GroupCommit {
        max_orders,
        connections: 1,
        queue,
    };
    let config = Config {
        group_commit,
        ..config(&database).await
    };
    (Api::start(config).await, database.pool())
}

/// Nobody can order this SKU until the lock is dropped.
async fn lock(pool: &PgPool, sku: i64) -> Transaction<'static, Dialect> {
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("select from skus where sku_id = $1 for update")
        .bind(sku)
        .execute(&mut *lock)
        .await
        .unwrap();
    lock
}

async fn until_an_order_waits_for_the_lock(pool: &PgPool) {
    let waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    until("an order waits for its SKU", async || {
        (number(pool, waiting).await == 1).then_some(())
    })
    .await;
}

async fn queued(api: &Api) -> u64 {
    api.metric("commerce_group_commit_queued_orders").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_order_of_a_batch_has_its_own_outcome() {
    let (api, pool) = api(1000, 1000).await;
    // While the first waits, the others gather; they are one batch then.
    let held = lock(&pool, 1).await;
    let first = json!({"skuId": 1, "quantity": 1});
    let good = json!({"skuId": 2, "quantity": 1});
    let unknown = json!({"skuId": 99, "quantity": 1});
    let short = json!({"skuId": 3, "quantity": 101});
    let keyed = json!({"skuId": 4, "quantity": 2, "idempotencyKey": "k"});
    let reused = json!({"skuId": 5, "quantity": 2, "idempotencyKey": "k"});
    let orders = async {
        until_an_order_waits_for_the_lock(&pool).await;
        let requests = [&good, &unknown, &short, &keyed, &keyed, &good, &unknown];
        join_all(requests.map(|request| api.order(request))).await
    };
    let release = async {
        until_an_order_waits_for_the_lock(&pool).await;
        until("the others gather", async || {
            (queued(&api).await == 7).then_some(())
        })
        .await;
        held.rollback().await.unwrap();
    };
    let (one, answers, ()) = tokio::join!(api.order(&first), orders, release);
    assert_eq!(one.status, 200);
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 404, 409, 200, 200, 200, 404]);
    assert_eq!(answers[3].body, answers[4].body);
    assert_eq!(answers[2].assert_problem(409)["available"], 100);
    assert_eq!(api.metric("commerce_group_commit_orders_count").await, 2);
    api.order(&reused).await.assert_problem(422);
    assert_eq!(number(&pool, "select count(*) from orders").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_at_once_and_the_others_are_placed() {
    let (api, pool) = api(1, 3).await;
    let held = lock(&pool, 1).await;
    let request = json!({"skuId": 1, "quantity": 1});
    let orders = async { join_all((0..20).map(|_| api.order(&request))).await };
    let release = async {
        until("the queue has refused the rest", async || {
            (api.metric("commerce_group_commit_refused_orders_total").await == 16).then_some(())
        })
        .await;
        held.rollback().await.unwrap();
    };
    let (answers, ()) = tokio::join!(orders, release);
    let (placed, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    // One is with PostgreSQL, three wait.
    assert_eq!((placed.len(), refused.len()), (4, 16));
    for answer in refused {
        answer.assert_problem(503);
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(number(&pool, "select count(*) from orders").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_while_waiting_gets_no_order_and_spoils_none() {
    let (api, pool) = api(1000, 1000).await;
    let held = lock(&pool, 1).await;
    let first = json!({"skuId": 1, "quantity": 1});
    let stays = json!({"skuId": 2, "quantity": 1, "userId": "stays"});
    let leaves = json!({"skuId": 2, "quantity": 1, "userId": "leaves"});
    let url = format!("{}/orders", api.base);
    let (begun, begins) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        begins.await.unwrap();
        reqwest::Client::new().post(url).json(&leaves).send().await
    });
    let hang_up = async {
        until("both wait", async || (queued(&api).await == 2).then_some(())).await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        // The server has to notice, which nothing tells.
        tokio::time::sleep(Duration::from_secs(2)).await;
        held.rollback().await.unwrap();
    };
    let stays = async {
        until_an_order_waits_for_the_lock(&pool).await;
        begun.send(()).unwrap();
        api.order(&stays).await
    };
    let (one, two, ()) = tokio::join!(api.order(&first), stays, hang_up);
    assert_eq!((one.status, two.status), (200, 200));
    assert_eq!(number(&pool, "select count(*) from orders").await, 2);
    let left = "select count(*) from orders where user_id = 'leaves'";
    assert_eq!(number(&pool, left).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_buyers_share_a_thousand_pieces() {
    let database = catalogue().await;
    let pool = database.pool();
    sqlx::query("update skus set stock = 1000 where sku_id = 1")
        .execute(&pool)
        .await
        .unwrap();
    let apis = [
        Api::start(config(&database).await).await,
        Api::start(config(&database).await).await,
    ];
    let request = json!({"skuId": 1, "quantity": 1});
    let answers: Vec<Answer> = stream::iter(0..10_000)
        .map(|buyer| apis[buyer % 2].order_in_a_crowd(&request))
        .buffer_unordered(256)
        .collect()
        .await;
    let mut counts: HashMap<u16, u32> = HashMap::new();
    for answer in &answers {
        *counts.entry(answer.status).or_default() += 1;
        if answer.status == 409 {
            assert_eq!(answer.json()["available"], 0);
        }
    }
    assert_eq!(counts, HashMap::from([(200, 1000), (409, 9000)]));
    assert_eq!(number(&pool, "select stock from skus where sku_id = 1").await, 0);
    assert_eq!(number(&pool, "select count(*) from orders").await, 1000);
    let events = "select count(distinct aggregate_id) from outbox_log";
    assert_eq!(number(&pool, events).await, 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_postgresql_and_keys_hold_while_it_is_killed() {
    let server = Postgres::start().await.unwrap();
    let options = postgres::parse_url(&SecretString::from(server.url())).unwrap();
    postgres::migrate(&options).await.unwrap();
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    seed(&mut connection, 4, 1_000_000).await.unwrap();
    let mut config = config(&catalogue().await).await;
    config.postgres = PostgresConfig {
        options: options.clone(),
        pool_size: 4,
    };
    let api = Api::start(config).await;
    // Each buyer repeats an order until it is answered, PostgreSQL dying under them again and again.
    let buyers = async {
        stream::iter(0..3000)
            .map(|buyer| {
                let request =
                    json!({"skuId": buyer % 4 + 1, "quantity": 1, "idempotencyKey": buyer.to_string()});
                let api = &api;
                async move { api.order_in_a_crowd(&request).await }
            })
            .buffer_unordered(32)
            .collect::<Vec<Answer>>()
            .await
    };
    let killer = async {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.kill().unwrap();
            server.restart().await.unwrap();
        }
    };
    let (answers, ()) = tokio::join!(buyers, killer);
    let mut ids: Vec<i64> = answers
        .iter()
        .map(|answer| {
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.json()["orderId"].as_str().unwrap().parse().unwrap()
        })
        .collect();
    ids.sort_unstable();
    let pool = sqlx::PgPool::connect_lazy_with(options);
    let placed: Vec<i64> = sqlx::query_scalar("select order_id from orders order by 1")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(placed, ids, "an order for each key, and no other");
    let stock = "select 4000000 - sum(stock)::bigint from skus";
    assert_eq!(number(&pool, stock).await, 3000);
    assert_eq!(number(&pool, "select count(*) from outbox_log").await, 3000);
}
