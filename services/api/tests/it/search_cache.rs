//! What the search cache may serve, for how long, and how it says so.

use std::time::Duration;

use commerce_api::Config;
use commerce_core::{elasticsearch::ElasticsearchConfig, redis::RedisConfig, search_cache, testing::Redis};
use pretty_assertions::assert_eq;
use secrecy::SecretString;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    proxy::{Passing, Proxy},
    search::{ids, index},
    support::{Answer, Api, calls, catalogue, config, orders_index, until},
};

const HOUR: Duration = Duration::from_hours(1);

/// A Redis of its own, an index of its own behind a proxy, and a configuration with both.
pub struct Stores {
    pub redis: Redis,
    pub index: ElasticsearchConfig,
    pub proxy: Proxy,
    pub config: Config,
}

impl Stores {
    pub async fn start() -> Self {
        let redis = Redis::start().await.unwrap();
        let mut config = config(&catalogue().await).await;
        config.redis = RedisConfig::new(&SecretString::from(redis.url()), "shop:").unwrap();
        config.elasticsearch = orders_index().await;
        config.search_cache.ttl = HOUR;
        let index = config.elasticsearch.clone();
        let proxy = Proxy::before_elasticsearch(&mut config.elasticsearch).await;
        Self {
            redis,
            index,
            proxy,
            config,
        }
    }

    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = &self.config.redis.client;
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// As the indexer does when an order has become searchable.
    pub async fn invalidate(&self, user: &str) {
        search_cache::invalidate(&mut self.connection().await, "shop:", [user])
            .await
            .unwrap();
    }

    /// The keys of all answers in Redis.
    pub async fn answers(&self) -> Vec<String> {
        redis::cmd("KEYS")
            .arg("shop:search:answer:*")
            .query_async(&mut self.connection().await)
            .await
            .unwrap()
    }
}

/// What `X-Cache` says, and which orders there are.
pub fn told(answer: &Answer) -> (&str, Vec<i64>) {
    (answer.header("x-cache").unwrap(), ids(answer))
}

fn age(answer: &Answer) -> Option<u64> {
    answer.header("age").map(|age| age.parse().unwrap())
}

#[tokio::test]
async fn memory_has_the_answer_and_redis_says_whether_it_is_good() {
    let stores = Stores::start().await;
    index(&stores.index, 1..=3).await;
    let api = Api::start(stores.config.clone()).await;
    let path = "/search/orders?userId=odd&limit=1";
    let first = api.get(path).await;
    assert_eq!((told(&first), age(&first)), (("MISS", vec![3]), None));
    let mut connection = stores.connection().await;
    for key in stores.answers().await {
        let _: () = redis::cmd("DEL")
            .arg(key)
            .query_async(&mut connection)
            .await
            .unwrap();
    }
    let again = api.get(path).await;
    assert_eq!(told(&again), ("HIT", vec![3]));
    assert!(age(&again).is_some());
    assert_eq!((&again.body, again.next()), (&first.body, first.next()));
    let _: () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
    assert_eq!(told(&api.get(path).await), ("MISS", vec![3]));
    assert_eq!(stores.proxy.searches(), 2);
}

#[tokio::test]
async fn while_an_answer_is_trusted_redis_is_not_asked() {
    let mut stores = Stores::start().await;
    stores.config.search_cache.trust = HOUR;
    index(&stores.index, 1..=3).await;
    let client = stores.config.redis.client.clone();
    let api = Api::start(stores.config.clone()).await;
    assert_eq!(told(&api.get("/search/orders").await).0, "MISS");
    let asked = async || (calls(&client, "get").await, calls(&client, "mget").await);
    let before = asked().await;
    stores.invalidate("odd").await;
    for _ in 0..10 {
        assert_eq!(told(&api.get("/search/orders").await), ("HIT", vec![3, 2, 1]));
    }
    assert_eq!(asked().await, before);
    let hits = "commerce_search_answers_total{level=\"memory\",outcome=\"hit\"}";
    assert_eq!(api.metric(hits).await, 10);
    assert_eq!(api.metric("mcl_cache_search_hit_total").await, 10);
}

#[tokio::test]
async fn that_nothing_was_found_is_cached_until_the_users_first_order() {
    let stores = Stores::start().await;
    let api = Api::start(stores.config.clone()).await;
    let path = "/search/orders?userId=odd";
    for source in ["MISS", "HIT"] {
        assert_eq!(told(&api.get(path).await), (source, vec![]));
    }
    let milliseconds: u128 = redis::cmd("PTTL")
        .arg(stores.answers().await)
        .query_async(&mut stores.connection().await)
        .await
        .unwrap();
    assert!(milliseconds <= (HOUR / 4).as_millis(), "{milliseconds} ms");
    index(&stores.index, [1]).await;
    stores.invalidate("odd").await;
    for source in ["MISS", "HIT"] {
        assert_eq!(told(&api.get(path).await), (source, vec![1]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_out_of_date_is_served_only_while_elasticsearch_fails() {
    let mut stores = Stores::start().await;
    let api = Api::start(stores.config.clone()).await;
    let other = Api::start(stores.config.clone()).await;
    stores.config.search_cache.stale_if_error = Duration::ZERO;
    let strict = Api::start(stores.config.clone()).await;
    index(&stores.index, [1]).await;
    let path = "/search/orders?userId=odd";
    assert_eq!(told(&api.get(path).await), ("MISS", vec![1]));
    assert_eq!(told(&strict.get(path).await), ("HIT", vec![1]));
    index(&stores.index, [3]).await;
    stores.invalidate("odd").await;

    stores.proxy.pass(Passing::Refused);
    // The other one has never seen it: Redis still has it.
    for api in [&api, &other, &api, &other] {
        let answer = api.get(path).await;
        assert_eq!(told(&answer), ("STALE", vec![1]));
        assert!(age(&answer).is_some());
    }
    let of = |level: &str| {
        format!("commerce_search_answers_total{{level=\"{level}\",outcome=\"stale_if_error\"}}")
    };
    assert_eq!(api.metric(&of("memory")).await, 2);
    assert_eq!(other.metric(&of("redis")).await, 1);
    strict.get(path).await.assert_problem(503);
    api.get("/search/orders?userId=even").await.assert_problem(503);
    stores.redis.kill().unwrap();
    assert_eq!(told(&api.get(path).await), ("STALE", vec![1]));

    stores.proxy.pass(Passing::Freely);
    assert_eq!(told(&api.get(path).await), ("BYPASS", vec![3, 1]));
    stores.redis.restart().await.unwrap();
    until("Redis is used again", async || {
        let answer = api.get(path).await;
        assert_eq!(ids(&answer), [3, 1]);
        (answer.header("x-cache") == Some("HIT")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_cached_a_while_ago_is_replaced_in_the_background_once() {
    let stores = Stores::start().await;
    let (writer, reader) = (
        Api::start(stores.config.clone()).await,
        Api::start(stores.config.clone()).await,
    );
    index(&stores.index, [1]).await;
    let path = "/search/orders?userId=odd";
    assert_eq!(told(&writer.get(path).await), ("MISS", vec![1]));
    // Of an answer's hour there are three minutes left: it is 57 minutes old.
    let _: () = redis::cmd("PEXPIRE")
        .arg(stores.answers().await)
        .arg(180_000)
        .query_async(&mut stores.connection().await)
        .await
        .unwrap();
    // Nobody has said so to Redis, or it would not be served at all.
    index(&stores.index, [3]).await;
    stores.proxy.pass(Passing::Never);
    for _ in 0..5 {
        let answer = reader.get(path).await;
        assert_eq!(told(&answer), ("STALE", vec![1]));
        assert!((3420..3600).contains(&age(&answer).unwrap()), "{answer:?}");
    }
    until("it is asked for again", async || {
        (stores.proxy.searches() == 2).then_some(())
    })
    .await;
    stores.proxy.pass(Passing::Freely);
    let fresh = until("it is replaced", async || {
        Some(reader.get(path).await).filter(|answer| answer.header("x-cache") != Some("STALE"))
    });
    let fresh = fresh.await;
    assert_eq!(told(&fresh), ("HIT", vec![3, 1]));
    assert!(age(&fresh).unwrap() < 180);
    assert_eq!(stores.proxy.searches(), 2);
    stores.invalidate("odd").await;
    assert_eq!(told(&reader.get(path).await), ("MISS", vec![3, 1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_redis_is_left_alone_and_taken_up_again() {
    let mut stores = Stores::start().await;
    index(&stores.index, 1..=3).await;
    let address = stores.redis.url().replace("redis://", "").replace("/0", "");
    let slow = Proxy::before(address.parse().unwrap()).await;
    let url = format!("redis://{}/0", slow.address);
    stores.config.redis = RedisConfig::new(&SecretString::from(url), "shop:").unwrap();
    stores.config.cache_budget = Duration::from_millis(500);
    let api = Api::start(stores.config.clone()).await;
    let state = async || api.metric("commerce_redis_breaker_state").await;
    until("Redis is used", async || {
        (told(&api.get("/search/orders").await).0 == "HIT").then_some(())
    })
    .await;
    assert_eq!(state().await, 0);

    slow.pass(Passing::After(Duration::from_secs(1)));
    let started = Instant::now();
    let order = json!({"skuId": 1, "quantity": 1, "idempotencyKey": "k"});
    for _ in 0..30 {
        assert_eq!(told(&api.get("/search/orders").await), ("BYPASS", vec![3, 2, 1]));
        assert_eq!(api.order(&order).await.status, 200);
        assert_ne!(state().await, 0);
    }
    // Were each to wait for Redis, it would be 30 s.
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "a slow Redis slows answers: {:?}",
        started.elapsed()
    );

    slow.pass(Passing::Freely);
    until("Redis is used again", async || {
        (told(&api.get("/search/orders").await).0 == "HIT").then_some(())
    })
    .await;
    assert_eq!(state().await, 0);
}
