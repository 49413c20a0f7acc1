//! Stores that go away while the API serves.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use commerce_api::seed::seed;
use commerce_core::{
    elasticsearch::ElasticsearchConfig,
    postgres::{self, PostgresConfig},
    redis::RedisConfig,
    testing::{Postgres, Redis},
};
use futures::future::join_all;
use pretty_assertions::assert_eq;
use secrecy::SecretString;
use serde_json::json;
use sqlx::PgConnection;

use crate::support::{Api, catalogue, closed_port, config, number, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_go_on_and_keys_hold_while_redis_is_killed_paused_and_flushed() {
    let redis = Redis::start().await.unwrap();
    let database = catalogue().await;
    let mut config = config(&database).await;
    config.redis = RedisConfig::new(&SecretString::from(redis.url()), "shop:").unwrap();
    config.cache_budget = Duration::from_millis(500);
    let apis = [Api::start(config.clone()).await, Api::start(config).await];
    let request = json!({"skuId": 1, "quantity": 3, "userId": "ada", "idempotencyKey": "once"});
    let killed = AtomicBool::new(false);
    let copies = join_all((0..100).map(|copy| {
        let (api, request, killed, redis) = (&apis[copy % 2], &request, &killed, &redis);
        async move {
            let answer = api.order_in_a_crowd(request).await;
            if copy > 30 && !killed.swap(true, Ordering::Relaxed) {
                redis.kill().unwrap();
            }
            answer
        }
    }));
    let answers = copies.await;
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (200, &answers[0].body));
    }
    redis.restart().await.unwrap();
    redis.pause().unwrap();
    let started = Instant::now();
    for _ in 0..20 {
        assert_eq!(apis[0].order(&request).await.body, answers[0].body);
    }
    // Were each to wait for Redis, it would be 10 s.
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "a slow Redis slows orders: {:?}",
        started.elapsed()
    );
    redis.resume().unwrap();
    assert_eq!(number(&database.pool(), "select count(*) from orders").await, 1);
    assert_eq!(
        number(&database.pool(), "select stock from skus where sku_id = 1").await,
        97
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_postgresql_callers_are_told_when_to_try_again_and_then_it_works() {
    let server = Postgres::start().await.unwrap();
    let options = postgres::parse_url(&SecretString::from(server.url())).unwrap();
    postgres::migrate(&options).await.unwrap();
    let mut connection = <PgConnection as sqlx::Connection>::connect_with(&options)
        .await
        .unwrap();
    seed(&mut connection, 1, 100).await.unwrap();
    let mut config = config(&catalogue().await).await;
    config.postgres = PostgresConfig {
        options,
        pool_size: 4,
    };
    let api = Api::start(config).await;
    let request = json!({"skuId": 1, "quantity": 1, "idempotencyKey": "k"});
    let first = api.order(&request).await;
    assert_eq!(first.status, 200);
    assert_eq!(api.order(&request).await.body, first.body);

    server.kill().unwrap();
    // What Redis has heard is known without PostgreSQL.
    let replay = api.order(&request).await;
    assert_eq!((replay.status, &replay.body), (200, &first.body));
    assert_eq!(replay.header("idempotency-replayed"), Some("true"));
    for path in ["/orders/1", "/products", "/products/1"] {
        let answer = api.get(path).await;
        answer.assert_problem(503);
        assert_eq!(answer.header("retry-after"), Some("1"), "{path}");
    }
    let another = json!({"skuId": 1, "quantity": 1, "idempotencyKey": "another"});
    let answer = api.order(&another).await;
    assert_eq!(
        answer.assert_problem(503)["detail"],
        "placing an order is not possible now; try again soon"
    );
    assert_eq!(answer.header("retry-after"), Some("1"));

    server.restart().await.unwrap();
    let placed = until("orders work again", async || {
        Some(api.order(&another).await).filter(|answer| answer.status == 200)
    });
    placed.await;
    assert_eq!(api.order(&request).await.body, first.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_schema_it_is_not_ready_and_says_what_to_do() {
    let server = Postgres::start().await.unwrap();
    let options = postgres::parse_url(&SecretString::from(server.url())).unwrap();
    let mut config = config(&catalogue().await).await;
    config.postgres = PostgresConfig {
        options: options.clone(),
        pool_size: 4,
    };
    let api = Api::start(config).await;
    let message = until("the check has run", async || {
        let answer = api.ask_admin("/readyz").await;
        assert_eq!(answer.status, 503);
        let message = answer.json()["checks"]["postgresql"]["message"]
            .as_str()?
            .to_owned();
        (message != "not reached yet").then_some(message)
    });
    assert!(message.await.ends_with("run `api migrate`"));
    postgres::migrate(&options).await.unwrap();
    until("it is ready", async || {
        (api.ask_admin("/readyz").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_elasticsearch_searches_fail_soon_and_orders_work() {
    let (api, _pool) = Api::with_catalogue().await;
    let answer = api.get("/search/orders?userId=ada").await;
    assert_eq!(
        answer.assert_problem(503)["detail"],
        "searching orders is not possible now; try again soon"
    );
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(api.order(&json!({"skuId": 1, "quantity": 1})).await.status, 200);
}

#[tokio::test]
async fn an_elasticsearch_that_says_nothing_is_a_timeout() {
    // It takes connections, and that is all.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap())
        .parse()
        .unwrap();
    let mut config = config(&catalogue().await).await;
    config.elasticsearch = ElasticsearchConfig::open(url, "orders");
    let api = Api::start(config).await;
    let answer = api.get("/search/orders").await;
    assert_eq!(
        answer.assert_problem(504)["type"],
        "tag:commerce.lab,2026:timeout"
    );
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn it_stops_at_once_when_stores_are_away() {
    let mut config = config(&catalogue().await).await;
    let options = config.postgres.options.clone().port(closed_port().await.port());
    config.postgres.options = options;
    let api = Api::start(config).await;
    let message = until("the check has run", async || {
        let message = api.ask_admin("/readyz").await.json()["checks"]["postgresql"]["message"]
            .as_str()?
            .to_owned();
        (message != "not reached yet").then_some(message)
    })
    .await;
    assert!(message.contains("refused"), "{message}");
    let started = Instant::now();
    api.stop().await;
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "stopping took {:?}",
        started.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_under_way_is_answered_before_the_server_stops() {
    let (api, pool) = Api::with_catalogue().await;
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("select from skus where sku_id = 1 for update")
        .execute(&mut *lock)
        .await
        .unwrap();
    let client = reqwest::Client::new();
    let request = client
        .post(format!("{}/orders", api.base))
        .json(&json!({"skuId": 1, "quantity": 1}))
        .send();
    let request = tokio::spawn(request);
    let waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    until("the order waits for its SKU", async || {
        (number(&pool, waiting).await == 1).then_some(())
    })
    .await;
    let base = api.base.clone();
    let stopping = tokio::spawn(api.stop());
    until("no new connection is taken", async || {
        reqwest::get(format!("{base}/products")).await.err()
    })
    .await;
    lock.commit().await.unwrap();
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
    stopping.await.unwrap();
}
