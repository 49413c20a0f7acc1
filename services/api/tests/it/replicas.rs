//! Replicas that share a search cache.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use commerce_api::config::SearchCache;
use commerce_core::search_cache;
use futures::future::join_all;
use pretty_assertions::assert_eq;
use rand::Rng as _;
use tokio::time::{Instant, timeout};

use crate::{
    proxy::Passing,
    search::{ids, index},
    search_cache::{Stores, told},
    support::{Api, calls, until},
};

const PATH: &str = "/search/orders?userId=odd&limit=100";

async fn two(stores: &Stores) -> [Api; 2] {
    [
        Api::start(stores.config.clone()).await,
        Api::start(stores.config.clone()).await,
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_ask_elasticsearch_once() {
    let stores = Stores::start().await;
    index(&stores.index, [1]).await;
    let apis = two(&stores).await;
    stores.invalidate("odd").await;
    stores.proxy.pass(Passing::Never);
    let asking = join_all((0..40).map(|number| apis[number % 2].get(PATH)));
    let client = &stores.config.redis.client;
    let both_want_to_ask = until("both replicas want to ask", async || {
        // The one that asks has tried for the lock once; the other one goes on trying.
        (calls(client, "set").await > 2).then(|| stores.proxy.pass(Passing::Freely))
    });
    let (answers, ()) = tokio::join!(asking, both_want_to_ask);
    for answer in &answers {
        assert_eq!(ids(answer), [1], "{answer:?}");
    }
    assert_eq!(stores.proxy.searches(), 1);
    for api in &apis {
        assert_eq!(told(&api.get(PATH).await), ("HIT", vec![1]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_hangs_with_the_lock_does_not_hold_up_the_other() {
    let mut stores = Stores::start().await;
    stores.config.search_cache.patience = Duration::from_millis(50);
    index(&stores.index, [1]).await;
    let apis = two(&stores).await;
    stores.proxy.pass(Passing::Never);
    let hung = apis[0].get(PATH);
    let other = async {
        until("the first one asks", async || {
            (stores.proxy.searches() == 1).then_some(())
        })
        .await;
        let answered = async {
            until("the other one asks, too", async || {
                (stores.proxy.searches() == 2).then_some(())
            })
            .await;
            stores.proxy.pass(Passing::Freely);
        };
        tokio::join!(apis[1].get(PATH), answered).0
    };
    let (hung, other) = tokio::join!(hung, other);
    // Each has its answer from its own question: the first one did not have to give up for the other to go on.
    for answer in [hung, other] {
        assert_eq!(told(&answer), ("MISS", vec![1]));
    }
}

/// Orders become searchable one after the other while callers search on two replicas. Whoever begins to search later than
/// the bound after an order was made known to Redis finds it. Gives the number of hits.
async fn nobody_misses_an_order(stores: &Stores, apis: &[Api], orders: i64) -> usize {
    let bound = SearchCache::default().trust;
    // How many orders there are, and since when this is known.
    let known = Mutex::new((0, Instant::now()));
    let (done, hits) = (AtomicBool::new(false), AtomicUsize::new(0));
    let write = async {
        for order in 1..=orders {
            index(&stores.index, [order * 2 - 1]).await;
            let tell = async || {
                let client = &stores.config.redis.client;
                let attempt = async {
                    let mut connection = client.get_multiplexed_async_connection().await.ok()?;
                    search_cache::invalidate(&mut connection, "shop:", ["odd"])
                        .await
                        .ok()
                };
                timeout(Duration::from_millis(500), attempt).await.ok()?
            };
            until("Redis knows of the order", tell).await;
            *known.lock().unwrap() = (order, Instant::now());
            // Some of the time there is something to hit.
            let pause = rand::rng().random_range(0..300);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    let readers = join_all((0..4).map(|number| {
        let (known, done, hits) = (&known, &done, &hits);
        async move {
            let mut wanted = 0;
            while !done.load(Ordering::Relaxed) {
                let (count, since) = *known.lock().unwrap();
                if since.elapsed() > bound {
                    wanted = count;
                }
                let answer = apis[number % 2].get(PATH).await;
                if matches!(answer.status, 503 | 504) {
                    // The machine is too busy for Elasticsearch: no claim is made.
                    continue;
                }
                let found = i64::try_from(ids(&answer).len()).unwrap();
                assert!(
                    found >= wanted,
                    "of {wanted} orders {found} are in {:?}",
                    answer.headers
                );
                if answer.header("x-cache") == Some("HIT") {
                    hits.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }));
    tokio::join!(write, readers);
    hits.into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_replicas_find_an_order_once_the_bound_is_over() {
    let mut stores = Stores::start().await;
    stores.config.search_cache = SearchCache {
        stale_if_error: Duration::ZERO,
        ..SearchCache::default()
    };
    let apis = two(&stores).await;
    assert!(nobody_misses_an_order(&stores, &apis, 20).await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_replicas_find_an_order_whatever_happens_to_redis() {
    let mut stores = Stores::start().await;
    stores.config.search_cache = SearchCache {
        stale_if_error: Duration::ZERO,
        ..SearchCache::default()
    };
    stores.config.cache_budget = Duration::from_millis(50);
    let apis = two(&stores).await;
    let done = AtomicBool::new(false);
    let trouble = async {
        while !done.load(Ordering::Relaxed) {
            let (what, pause) = {
                let mut random = rand::rng();
                (random.random_range(0..4), random.random_range(50..600))
            };
            let pause = tokio::time::sleep(Duration::from_millis(pause));
            match what {
                0 => {
                    stores.redis.kill().unwrap();
                    pause.await;
                    stores.redis.restart().await.unwrap();
                }
                1 => {
                    stores.redis.pause().unwrap();
                    pause.await;
                    stores.redis.resume().unwrap();
                }
                2 => {
                    let _: () = redis::cmd("FLUSHALL")
                        .query_async(&mut stores.connection().await)
                        .await
                        .unwrap();
                    pause.await;
                }
                _ => pause.await,
            }
        }
    };
    let searching = async {
        nobody_misses_an_order(&stores, &apis, 40).await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(trouble, searching);
}
