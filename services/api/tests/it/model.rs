//! `place` against a model of it: orders that come one after the other, in memory.

use std::collections::HashMap;

use commerce_api::orders::{NewOrder, Outcome, place::place};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use sqlx::PgPool;

use crate::support::catalogue;

/// What the rules say, without a database.
#[derive(Debug, Default)]
struct Model {
    stock: HashMap<i64, i64>,
    /// By user and key: the order's id and what was ordered.
    keys: HashMap<(String, String), (i64, i64, i32)>,
    placed: Vec<i64>,
}

impl Model {
    /// Checks one outcome and follows it.
    fn check(&mut self, order: &NewOrder, outcome: &Outcome) {
        let key = order
            .idempotency_key
            .clone()
            .map(|key| (order.user_id.clone(), key));
        if let Some((id, sku, quantity)) = key.as_ref().and_then(|key| self.keys.get(key)) {
            if (*sku, *quantity) == (order.sku_id, order.quantity) {
                assert!(
                    matches!(outcome, Outcome::Replayed(receipt) if receipt.order_id == *id),
                    "{outcome:?}"
                );
            } else {
                assert_eq!(*outcome, Outcome::KeyReused);
            }
            return;
        }
        let Some(stock) = self.stock.get_mut(&order.sku_id) else {
            assert_eq!(*outcome, Outcome::UnknownSku);
            return;
        };
        if *stock < i64::from(order.quantity) {
            assert_eq!(*outcome, Outcome::OutOfStock { available: *stock });
            return;
        }
        let Outcome::Placed(receipt) = outcome else {
            panic!("{order:?} gave {outcome:?}")
        };
        assert_eq!(receipt.correlation_id, order.correlation_id);
        *stock -= i64::from(order.quantity);
        self.placed.push(receipt.order_id);
        if let Some(key) = key {
            self.keys
                .insert(key, (receipt.order_id, order.sku_id, order.quantity));
        }
    }
}

/// Few users, keys, SKUs and pieces, so that orders get in each other's way. The SKU 9 does not exist.
fn order() -> impl Strategy<Value = NewOrder> {
    let key = prop::option::weighted(0.7, prop::sample::select(vec!["a", "b", "c"]));
    let sku = prop_oneof![4 => 1..=2_i64, 1 => Just(9)];
    (
        prop::sample::select(vec!["ada", "bob"]),
        key,
        sku,
        1..=2_i32,
        "[a-z]{4}",
    )
        .prop_map(|(user, key, sku_id, quantity, correlation_id)| NewOrder {
            user_id: user.to_owned(),
            idempotency_key: key.map(str::to_owned),
            sku_id,
            quantity,
            correlation_id,
            traceparent: None,
        })
}

async fn follow(pool: &PgPool, batches: &[Vec<NewOrder>]) {
    let mut connection = pool.acquire().await.unwrap();
    sqlx::raw_sql("truncate orders, outbox_log; update skus set stock = 6, version = 1")
        .execute(pool)
        .await
        .unwrap();
    let mut model = Model {
        stock: (1..=8).map(|sku| (sku, 6)).collect(),
        ..Model::default()
    };
    for batch in batches {
        let outcomes = place(&mut connection, batch).await.unwrap();
        assert_eq!(outcomes.len(), batch.len());
        batch
            .iter()
            .zip(&outcomes)
            .for_each(|(order, outcome)| model.check(order, outcome));
    }
    let stock: Vec<(i64, i64)> = sqlx::query_as("select sku_id, stock from skus")
        .fetch_all(pool)
        .await
        .unwrap();
    assert_eq!(stock.into_iter().collect::<HashMap<_, _>>(), model.stock);
    let mut ids: Vec<i64> = sqlx::query_scalar("select order_id from orders order by 1")
        .fetch_all(pool)
        .await
        .unwrap();
    model.placed.sort_unstable();
    assert_eq!(ids, model.placed);
    let logged = "select aggregate_id::bigint from outbox_log order by 1";
    ids = sqlx::query_scalar(logged).fetch_all(pool).await.unwrap();
    assert_eq!(ids, model.placed, "each order has one event");
}

#[test]
fn batches_have_the_outcomes_of_orders_one_after_the_other() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let pool = runtime.block_on(async { catalogue().await.pool() });
    let mut runner = TestRunner::new(Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    });
    let batches = vec(vec(order(), 1..12), 1..5);
    runner
        .run(&batches, |batches| {
            runtime.block_on(follow(&pool, &batches));
            Ok(())
        })
        .unwrap();
}

/// The same, by several connections at once: what they sold together is what is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_at_the_same_time_neither_deadlock_nor_oversell() {
    let pool = catalogue().await.pool();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..6_i64 {
        let pool = pool.clone();
        tasks.spawn(async move {
            let mut connection = pool.acquire().await.unwrap();
            let mut placed = 0;
            for round in 0..20_i64 {
                // Everybody orders the same SKUs under the same keys, each in another order.
                let batch: Vec<_> = (0..8)
                    .map(|place| (place * (2 * worker + 1) + round) % 8)
                    .map(|number| NewOrder {
                        user_id: "ada".to_owned(),
                        idempotency_key: (number % 2 == 0).then(|| format!("{round}-{number}")),
                        sku_id: (number + worker * (number % 4)) % 8 + 1,
                        quantity: 1,
                        correlation_id: "c".to_owned(),
                        traceparent: None,
                    })
                    .collect();
                let outcomes = place(&mut connection, &batch).await.unwrap();
                placed += outcomes
                    .iter()
                    .filter(|outcome| matches!(outcome, Outcome::Placed(_)))
                    .count();
            }
            i64::try_from(placed).unwrap()
        });
    }
    let placed: i64 = tasks.join_all().await.into_iter().sum();
    let (orders, stock): (i64, i64) =
        sqlx::query_as("select (select count(*) from orders), (select sum(stock)::bigint from skus)")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!((orders, stock), (placed, 800 - placed));
    let keys = "select count(*) from orders where idempotency_key is not null";
    assert_eq!(crate::support::number(&pool, keys).await, 80);
}
