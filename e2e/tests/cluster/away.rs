//! A store is away: the pipeline names it, orders go on, and everything is well again when the store is back.

use std::time::Duration;

use anyhow::{Result, ensure};
use commerce_e2e::{
    orders::{Order, Orders, new_user},
    scenario::{Outcome, Scenario, scenario},
    stores,
};

/// The operator looks at the stores on a timer.
const NOTICED: Duration = Duration::from_secs(90);
const BACK: Duration = Duration::from_mins(3);

#[tokio::test]
async fn without_redis_orders_and_search_go_on() -> Outcome {
    scenario(async |s| {
        let orders = Orders::through_ingress(&s.cluster, None)?;
        let order = Order::of(&new_user());
        take_away(s, "redis").await?;

        let id = orders.place(&order).await?;
        orders
            .finds(&order.user, std::slice::from_ref(&id), Duration::from_secs(10))
            .await?;
        let replay = orders.post(&order).await?.expect(200)?;
        assert_eq!(replay.order_id()?, id, "PostgreSQL knows the key too");
        give_back(s, "redis").await?;
        orders
            .finds(&order.user, &[id], Duration::from_secs(10))
            .await
            .map(drop)
    })
    .await
}

#[tokio::test]
async fn without_elasticsearch_orders_go_on_and_are_found_later() -> Outcome {
    scenario(async |s| {
        let orders = Orders::through_ingress(&s.cluster, None)?;
        let user = new_user();
        take_away(s, "elasticsearch").await?;

        let mut ids = Vec::new();
        for _ in 0..10 {
            ids.push(orders.place(&Order::of(&user)).await?);
        }
        let search = orders
            .get(&format!("/search/orders?userId={user}"))
            .await?
            .expect(503)?;
        assert_ne!(search.header("retry-after"), "", "503 tells when to come back");
        let read = orders.get(&format!("/orders/{}", ids[0])).await?.expect(200)?;
        assert_eq!(read.order_id()?, ids[0]);

        give_back(s, "elasticsearch").await?;
        orders.finds(&user, &ids, Duration::from_mins(1)).await.map(drop)
    })
    .await
}

/// Stops a store until the scenario is over or it is given back, and waits until the pipeline says so.
async fn take_away(s: &Scenario, store: &'static str) -> Result<()> {
    let (cluster, shop) = (s.cluster.clone(), s.shop.clone());
    s.afterwards(format!("bringing {store} back"), async move {
        stores::scale(&cluster, &format!("stores-{store}"), 1).await?;
        shop.ready_within(BACK).await
    });
    stores::scale(&s.cluster, &format!("stores-{store}"), 0).await?;
    let condition = s.shop.reaches("StoresReachable", "False", NOTICED).await?;
    let words = format!("{} {}", condition.reason, condition.message).to_lowercase();
    ensure!(
        words.contains(store),
        "the condition does not name {store}: {condition:?}"
    );
    let ready = s.shop.condition("Ready").await?;
    ensure!(
        ready.status == "False",
        "a pipeline without {store} is not ready: {ready:?}"
    );
    Ok(())
}

async fn give_back(s: &Scenario, store: &str) -> Result<()> {
    stores::scale(&s.cluster, &format!("stores-{store}"), 1).await?;
    s.shop.ready_within(BACK).await
}
