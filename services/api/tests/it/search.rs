//! Orders that are in the index are found, page by page, and cached until they change.

use commerce_core::{
    elasticsearch::ElasticsearchConfig,
    redis::RedisConfig,
    search_cache,
    testing::{Redis, shared},
};
use elasticsearch::{BulkOperation, BulkParts, params::Refresh};
use futures::future::join_all;
use pretty_assertions::assert_eq;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::{
    proxy::{Passing, Proxy},
    support::{Answer, Api, PATIENCE, calls, catalogue, config, orders_index, until},
};

/// An indexed order; every third one was placed in the same millisecond as the one before.
fn order(number: i64) -> Value {
    let second = number - i64::from(number % 3 == 0);
    json!({
        "orderId": number.to_string(), "skuId": number % 4, "quantity": 1,
        "userId": if number % 2 == 0 { "even" } else { "odd" },
        "status": if number % 5 == 0 { "CANCELLED" } else { "CREATED" }, "version": 1,
        "correlationId": format!("c{number}"), "createdAt": format!("2026-01-31T12:{:02}:{:02}.000250Z", second / 60, second % 60),
    })
}

pub async fn index(config: &ElasticsearchConfig, orders: impl IntoIterator<Item = i64>) {
    let operations: Vec<BulkOperation<Value>> = orders
        .into_iter()
        .map(|number| {
            // What only the index knows is not told.
            let mut document = order(number);
            document["indexedAt"] = json!("2026-01-31T13:00:00Z");
            BulkOperation::index(document).id(number.to_string()).into()
        })
        .collect();
    let client = config.client(PATIENCE).unwrap();
    let answer = client
        .bulk(BulkParts::Index(&config.index))
        .body(operations)
        .refresh(Refresh::True)
        .send()
        .await;
    let body = commerce_core::elasticsearch::body("index orders", answer)
        .await
        .unwrap();
    assert_eq!(body["errors"], false, "{body}");
}

async fn api() -> (Api, ElasticsearchConfig, RedisConfig) {
    let mut config = config(&catalogue().await).await;
    config.elasticsearch = orders_index().await;
    let stores = (config.elasticsearch.clone(), config.redis.clone());
    (Api::start(config).await, stores.0, stores.1)
}

pub fn ids(answer: &Answer) -> Vec<i64> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let orders: Vec<Value> = serde_json::from_str(&answer.body).unwrap();
    orders
        .iter()
        .map(|order| order["orderId"].as_str().unwrap().parse().unwrap())
        .collect()
}

async fn walk(api: &Api, path: &str) -> Vec<i64> {
    let (mut path, mut found) = (path.to_owned(), Vec::new());
    loop {
        let page = api.get(&path).await;
        found.extend(ids(&page));
        match page.next() {
            Some(next) => path = next,
            None => return found,
        }
    }
}

#[tokio::test]
async fn all_filters_narrow_and_the_newest_comes_first() {
    let (api, stores, _redis) = api().await;
    index(&stores, 1..=12).await;
    let answer = api.get("/search/orders?correlationId=c7").await;
    let mut wanted = order(7);
    wanted["createdAt"] = json!("2026-01-31T12:00:07.000250Z");
    assert_eq!(answer.json(), json!([wanted]));
    for (query, wanted) in [
        ("", vec![12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        ("?userId=even", vec![12, 10, 8, 6, 4, 2]),
        ("?userId=even&skuId=2", vec![10, 6, 2]),
        ("?status=CANCELLED", vec![10, 5]),
        ("?status=CANCELLED&userId=odd", vec![5]),
        ("?createdFrom=2026-01-31T12:00:10Z", vec![12, 11, 10]),
        (
            "?createdFrom=2026-01-31T13:00:04%2B01:00&createdTo=2026-01-31T12:00:08Z",
            vec![7, 6, 5, 4],
        ),
        ("?userId=nobody", vec![]),
        ("?limit=2", vec![12, 11]),
    ] {
        // 12 and 11, 9 and 8, … are of the same millisecond: their ids decide, as text.
        let mut found = ids(&api.get(&format!("/search/orders{query}")).await);
        if query.is_empty() {
            assert_eq!(found.len(), 12);
            found.sort_unstable_by(|one, other| other.cmp(one));
        }
        assert_eq!(found, wanted, "{query}");
    }
}

#[tokio::test]
async fn pages_lead_through_all_orders_once_while_more_are_placed() {
    let (api, stores, _redis) = api().await;
    index(&stores, 1..=50).await;
    for limit in [1, 7, 50, 100] {
        let mut found = walk(&api, &format!("/search/orders?limit={limit}")).await;
        found.sort_unstable();
        assert_eq!(found, (1..=50).collect::<Vec<_>>(), "limit {limit}");
    }
    let first = api.get("/search/orders?limit=20").await;
    index(&stores, 51..=70).await;
    let mut found = ids(&first);
    found.extend(walk(&api, &first.next().unwrap()).await);
    found.sort_unstable();
    assert_eq!(found, (1..=50).collect::<Vec<_>>());
    assert_eq!(walk(&api, "/search/orders?userId=odd&limit=10").await.len(), 35);
}

#[tokio::test]
async fn a_cached_answer_is_good_until_the_user_or_anybody_has_a_new_order() {
    let (api, stores, redis) = api().await;
    index(&stores, 1..=4).await;
    let search = async |query: &str| {
        let answer = api.get(&format!("/search/orders?{query}")).await;
        (
            answer.header("x-cache").unwrap().to_owned(),
            ids(&answer),
            answer.next(),
        )
    };
    let paths = ["userId=odd", "userId=even&limit=1", "skuId=1"];
    let before = join_all(paths.map(&search)).await;
    assert!(before.iter().all(|(source, ..)| source == "MISS"), "{before:?}");
    for (path, (_, found, next)) in paths.iter().zip(&before) {
        assert_eq!(
            &search(path).await,
            &("HIT".to_owned(), found.clone(), next.clone()),
            "{path}"
        );
    }
    assert_eq!(api.metric("mcl_cache_search_hit_total").await, 3);
    assert_eq!(api.metric("mcl_cache_search_miss_total").await, 3);

    index(&stores, [5]).await;
    let mut connection = redis.client.get_multiplexed_async_connection().await.unwrap();
    search_cache::invalidate(&mut connection, &redis.key_prefix, ["odd"])
        .await
        .unwrap();
    assert_eq!(
        search("userId=odd").await,
        ("MISS".to_owned(), vec![5, 3, 1], None)
    );
    assert_eq!(search("skuId=1").await, ("MISS".to_owned(), vec![5, 1], None));
    assert_eq!(search("userId=even&limit=1").await.0, "HIT");
}

#[tokio::test]
async fn everything_in_redis_has_an_end() {
    let redis = Redis::start().await.unwrap();
    let mut config = config(&catalogue().await).await;
    config.elasticsearch = orders_index().await;
    config.redis = RedisConfig::new(&SecretString::from(redis.url()), "shop:").unwrap();
    let api = Api::start(config.clone()).await;
    api.get("/search/orders").await;
    let request = json!({"skuId": 1, "quantity": 1, "idempotencyKey": "k"});
    let mut connection = config
        .redis
        .client
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    until("a replay is remembered", async || {
        api.order(&request).await;
        let mut connection = config
            .redis
            .client
            .get_multiplexed_async_connection()
            .await
            .unwrap();
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg("shop:idempotency:*")
            .query_async(&mut connection)
            .await
            .unwrap();
        (!keys.is_empty()).then_some(())
    })
    .await;
    search_cache::invalidate(&mut connection, "shop:", ["ada"])
        .await
        .unwrap();
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg("*")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(keys.len(), 4, "{keys:?}");
    for key in keys {
        assert!(key.starts_with("shop:"), "{key}");
        let seconds: i64 = redis::cmd("TTL")
            .arg(&key)
            .query_async(&mut connection)
            .await
            .unwrap();
        assert!(seconds > 0, "{key} stays for ever");
    }
}

#[tokio::test]
async fn without_redis_answers_come_from_elasticsearch() {
    let redis = Redis::start().await.unwrap();
    let mut config = config(&catalogue().await).await;
    config.elasticsearch = orders_index().await;
    config.redis = RedisConfig::new(&SecretString::from(redis.url()), "shop:").unwrap();
    let stores = config.elasticsearch.clone();
    let api = Api::start(config).await;
    index(&stores, 1..=2).await;
    api.get("/search/orders").await;
    redis.kill().unwrap();
    for _ in 0..3 {
        let answer = api.get("/search/orders").await;
        assert_eq!(
            (answer.header("x-cache"), ids(&answer).len()),
            (Some("BYPASS"), 2)
        );
    }
    redis.restart().await.unwrap();
    until("Redis is used again", async || {
        (api.get("/search/orders").await.header("x-cache") == Some("HIT")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn before_there_is_an_index_searches_are_unavailable() {
    let mut config = config(&catalogue().await).await;
    config.elasticsearch = shared().elasticsearch_config().await.unwrap();
    let api = Api::start(config).await;
    api.get("/search/orders").await.assert_problem(503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_question_answers_all_who_ask_it_at_the_same_time() {
    let redis = Redis::start().await.unwrap();
    let mut config = config(&catalogue().await).await;
    config.redis = RedisConfig::new(&SecretString::from(redis.url()), "shop:").unwrap();
    config.elasticsearch = orders_index().await;
    index(&config.elasticsearch, 1..=3).await;
    let proxy = Proxy::before_elasticsearch(&mut config.elasticsearch).await;
    let client = config.redis.client.clone();
    let api = Api::start(config).await;

    proxy.pass(Passing::Never);
    let asking = join_all((0..50).map(|_| api.get("/search/orders")));
    let all_look_for_it = until("everybody has looked into Redis", async || {
        // The one who asks has looked twice.
        (calls(&client, "mget").await == 51).then(|| proxy.pass(Passing::Freely))
    });
    let (answers, ()) = tokio::join!(asking, all_look_for_it);
    assert!(
        answers
            .iter()
            .all(|answer| ids(answer).len() == 3 && answer.header("x-cache") == Some("MISS"))
    );
    assert_eq!(proxy.searches(), 1);
}
