//! The stock ledger adds up to the stock, whatever is ordered, cancelled and set: one after the other against a model,
//! and at the same time.

use std::sync::atomic::{AtomicBool, Ordering};

use commerce_api::orders::{NewOrder, place::place};
use commerce_core::{postgres, testing::Postgres};
use futures::future::join_all;
use pretty_assertions::assert_eq;
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use reqwest::Method;
use secrecy::SecretString;
use serde_json::json;
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::support::{Answer, Api, catalogue, config, number, placed};

/// SKUs whose ledger does not add up, or that have less than nothing. One statement sees one snapshot.
const WRONG: &str = "
    select count(*)
      from skus
      left join (select sku_id, sum(delta) as total from stock_movements group by sku_id) ledger using (sku_id)
     where total is distinct from stock or stock < 0";

/// Orders that were given back more or less than once, or without being cancelled.
const GIVEN_BACK_WRONGLY: &str = "
    select count(*)
      from orders
      left join (select order_id, count(*) as times, sum(delta) as pieces
                   from stock_movements where reason = 'CANCEL' group by order_id) back using (order_id)
     where (status = 'CANCELLED') <> (back.times is not null and back.times = 1 and back.pieces = quantity)";

/// Orders that have not exactly one event of each of their versions, in order, with the right type.
const ANNOUNCED_WRONGLY: &str = "
    select count(*)
      from orders
      left join (select aggregate_id::bigint as order_id, array_agg(aggregate_version order by outbox_id) as versions,
                        array_agg(event_type order by outbox_id) as types
                   from outbox_log group by 1) events using (order_id)
     where versions is distinct from (case status when 'CREATED' then '{1}' else '{1,2}' end)::bigint[]
        or types is distinct from
           (case status when 'CREATED' then '{order.created}' else '{order.created,order.cancelled}' end)::text[]
        or version <> cardinality(versions)";

async fn assert_consistent(pool: &PgPool) {
    for check in [WRONG, GIVEN_BACK_WRONGLY, ANNOUNCED_WRONGLY] {
        assert_eq!(number(pool, check).await, 0, "{check}");
    }
}

async fn cancel(api: &Api, id: &str, if_match: Option<String>) -> Answer {
    let path = format!("/orders/{id}/cancel");
    let headers: Vec<_> = if_match.iter().map(|tag| ("if-match", tag.as_str())).collect();
    api.send(Method::POST, &path, &headers, "").await
}

async fn set_stock(api: &Api, sku: i64, stock: i64, if_match: &str) -> Answer {
    let headers = [("if-match", if_match), ("content-type", "application/json")];
    let body = json!({"stock": stock}).to_string();
    api.send(Method::PUT, &format!("/skus/{sku}/stock"), &headers, body)
        .await
}

/// What a caller does. SKUs are 1 to 3; `pick` chooses among the orders there are, `stale` gives a version that is gone.
#[derive(Debug, Clone)]
enum Step {
    Order {
        sku: i64,
        quantity: i64,
    },
    Cancel {
        pick: prop::sample::Index,
        guarded: bool,
        stale: bool,
    },
    SetStock {
        sku: i64,
        stock: i64,
        stale: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..=3_i64, 1..=4_i64).prop_map(|(sku, quantity)| Step::Order { sku, quantity }),
        3 => any::<(prop::sample::Index, bool, bool)>()
            .prop_map(|(pick, guarded, stale)| Step::Cancel { pick, guarded, stale }),
        1 => (1..=3_i64, 0..=9_i64, prop::bool::weighted(0.3))
            .prop_map(|(sku, stock, stale)| Step::SetStock { sku, stock, stale }),
    ]
}

/// What the rules say, without a database.
#[derive(Debug, Default)]
struct Model {
    /// Stock and version of each SKU.
    skus: Vec<(i64, i64)>,
    /// Id, SKU, quantity and version of each order.
    orders: Vec<(String, i64, i64, i64)>,
}

impl Model {
    fn sku(&mut self, id: i64) -> &mut (i64, i64) {
        &mut self.skus[usize::try_from(id - 1).unwrap()]
    }

    /// Takes a step, and compares what comes of it.
    async fn follow(&mut self, api: &Api, step: &Step) {
        match step {
            Step::Order { sku, quantity } => {
                let answer = api.order(&json!({"skuId": sku, "quantity": quantity})).await;
                let (stock, version) = self.sku(*sku);
                if *stock < *quantity {
                    assert_eq!(answer.assert_problem(409)["available"], *stock);
                    return;
                }
                (*stock, *version) = (*stock - quantity, *version + 1);
                self.orders.push((placed(&answer), *sku, *quantity, 1));
            }
            Step::Cancel { pick, guarded, stale } => {
                if self.orders.is_empty() {
                    return;
                }
                let place = pick.index(self.orders.len());
                let (id, sku, quantity, before) = self.orders[place].clone();
                let named = before + i64::from(*stale);
                let answer = cancel(api, &id, guarded.then(|| format!("\"{named}\""))).await;
                if before == 1 && *guarded && *stale {
                    answer.assert_problem(412);
                    return;
                }
                assert_eq!((answer.status, answer.header("etag")), (200, Some("\"2\"")));
                assert_eq!(answer.json()["status"], "CANCELLED");
                if before == 1 {
                    self.orders[place].3 = 2;
                    let (stock, version) = self.sku(sku);
                    (*stock, *version) = (*stock + quantity, *version + 1);
                }
            }
            Step::SetStock {
                sku,
                stock: wanted,
                stale,
            } => {
                let (stock, version) = self.sku(*sku);
                let named = *version - i64::from(*stale);
                let answer = set_stock(api, *sku, *wanted, &format!("\"{named}\"")).await;
                if *stale {
                    answer.assert_problem(412);
                    return;
                }
                *version += i64::from(*stock != *wanted);
                *stock = *wanted;
                let json = answer.json();
                assert_eq!(
                    (&json["stock"], &json["version"]),
                    (&json!(*stock), &json!(*version))
                );
                assert_eq!(answer.header("etag"), Some(format!("\"{version}\"").as_str()));
            }
        }
    }
}

async fn follow(api: &Api, pool: &PgPool, steps: &[Step]) {
    sqlx::raw_sql(
        "truncate orders, outbox_log, stock_adjustments;
         update skus set stock = 5, version = 1;
         insert into stock_adjustments (sku_id, delta, reason) select sku_id, 5, 'INITIAL' from skus",
    )
    .execute(pool)
    .await
    .unwrap();
    let mut model = Model {
        skus: vec![(5, 1); 8],
        orders: Vec::new(),
    };
    for step in steps {
        model.follow(api, step).await;
    }
    assert_consistent(pool).await;
    let skus: Vec<(i64, i64)> = sqlx::query_as("select stock, version from skus order by sku_id")
        .fetch_all(pool)
        .await
        .unwrap();
    assert_eq!(skus, model.skus);
    let mut orders: Vec<(String, i64, i64, i64)> = sqlx::query_as(
        "select order_id::text, sku_id, quantity::bigint, version from orders order by order_id",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    orders.sort_unstable();
    model.orders.sort_unstable();
    assert_eq!(orders, model.orders);
}

#[test]
fn orders_cancellations_and_stock_settings_come_out_as_the_model_says() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (api, pool) = runtime.block_on(Api::with_catalogue());
    let mut runner = TestRunner::new(Config {
        cases: 32,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&vec(step(), 1..40), |steps| {
            runtime.block_on(follow(&api, &pool, &steps));
            Ok(())
        })
        .unwrap();
}

/// Orders, cancels and sets stock, choosing by chance; gives the orders it has placed.
async fn trade(api: &Api, seed: u64, rounds: usize, others: &[String]) -> Vec<String> {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut orders = others.to_vec();
    for _ in 0..rounds {
        let sku = chance.random_range(1..=2_i64);
        match chance.random_range(0..10) {
            0..5 => {
                let request = json!({"skuId": sku, "quantity": chance.random_range(1..=3)});
                let answer = api.order_in_a_crowd(&request).await;
                if answer.status == 200 {
                    orders.push(placed(&answer));
                } else {
                    answer.assert_problem(409);
                }
            }
            5..9 if !orders.is_empty() => {
                let id = &orders[chance.random_range(0..orders.len())];
                assert_eq!(cancel(api, id, None).await.status, 200);
            }
            _ => {
                let before = api.get(&format!("/skus/{sku}")).await;
                let tag = before.header("etag").unwrap().to_owned();
                let stock = chance.random_range(0..=20);
                let answer = set_stock(api, sku, stock, &tag).await;
                assert!(matches!(answer.status, 200 | 412), "{answer:?}");
            }
        }
    }
    orders.split_off(others.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_adds_up_at_every_moment_while_many_trade() {
    let database = catalogue().await;
    let pool = database.pool();
    let apis = [
        Api::start(config(&database).await).await,
        Api::start(config(&database).await).await,
    ];
    // Everybody may cancel these.
    let shared = trade(&apis[0], 0, 40, &[]).await;
    let done = AtomicBool::new(false);
    let traders = async {
        let tasks = (1..=6).map(|seed| trade(&apis[usize::from(seed % 2 == 0)], seed, 60, &shared));
        let placed = join_all(tasks).await;
        done.store(true, Ordering::SeqCst);
        placed.concat().len() + shared.len()
    };
    let watcher = async {
        let mut looks = 0;
        while !done.load(Ordering::SeqCst) {
            assert_eq!(number(&pool, WRONG).await, 0, "look {looks}");
            looks += 1;
        }
        looks
    };
    let (placed, looks) = tokio::join!(traders, watcher);
    assert!(looks > 5, "only {looks} looks");
    assert_consistent(&pool).await;
    let orders = number(&pool, "select count(*) from orders").await;
    assert_eq!(usize::try_from(orders).unwrap(), placed);
    let cancelled = "select count(*) from orders where status = 'CANCELLED'";
    assert!(number(&pool, cancelled).await > 0);
}

/// An order as the previous version places it: it knows of no ledger.
fn order(sku_id: i64) -> NewOrder {
    NewOrder {
        user_id: "ada".to_owned(),
        idempotency_key: None,
        sku_id,
        quantity: 2,
        correlation_id: "c".to_owned(),
        traceparent: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_from_before_the_ledger_gets_one_while_orders_go_on() {
    let server = Postgres::start().await.unwrap();
    let options = postgres::parse_url(&SecretString::from(server.url())).unwrap();
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    postgres::MIGRATOR.run_to(1, &mut connection).await.unwrap();
    let pool = PgPool::connect_with(options.clone()).await.unwrap();
    let begin = "insert into products (name) values ('Kettle');
                 insert into skus (product_id, name, stock) values (1, 'red', 10000), (1, 'blue', 0), (1, 'old', 3)";
    sqlx::raw_sql(begin).execute(&pool).await.unwrap();
    place(&mut connection, &vec![order(1); 50]).await.unwrap();
    // One that was cancelled by hand, pieces and all.
    sqlx::raw_sql(
        "update orders set status = 'CANCELLED', version = 2, updated_at = now() where order_id = 1;
         update skus set stock = stock + 2 where sku_id = 1",
    )
    .execute(&pool)
    .await
    .unwrap();

    let done = AtomicBool::new(false);
    let ordering = join_all((0..3).map(async |_| {
        let mut connection = pool.acquire().await.unwrap();
        let mut batches = 0;
        while !done.load(Ordering::SeqCst) {
            place(&mut connection, &[order(1), order(1)]).await.unwrap();
            batches += 1;
        }
        batches
    }));
    let migrating = async {
        postgres::migrate(&options).await.unwrap();
        // The previous version's seeding comes late.
        let late = "insert into skus (product_id, name, stock) values (1, 'late', 7)";
        sqlx::raw_sql(late).execute(&pool).await.unwrap();
        for _ in 0..20 {
            assert_eq!(number(&pool, WRONG).await, 0);
        }
        done.store(true, Ordering::SeqCst);
    };
    let (batches, ()) = tokio::join!(ordering, migrating);
    assert_eq!(number(&pool, WRONG).await, 0);
    let orders = 50 + 2 * batches.into_iter().sum::<i64>();
    assert_eq!(number(&pool, "select count(*) from orders").await, orders);
    let initial = "select sum(delta)::bigint from stock_movements where reason = 'INITIAL' and sku_id = 1";
    assert_eq!(number(&pool, initial).await, 10_000);
    assert_eq!(number(&pool, "select count(*) from stock_adjustments").await, 4);

    // Nothing of it is left when the schema is dropped, and it can be made again.
    drop(connection);
    postgres::drop_schema(&options).await.unwrap();
    let left = "select (select count(*) from pg_class where relnamespace = 'public'::regnamespace)
                     + (select count(*) from pg_proc where pronamespace = 'public'::regnamespace)";
    assert_eq!(number(&pool, left).await, 0);
    postgres::migrate(&options).await.unwrap();
}
