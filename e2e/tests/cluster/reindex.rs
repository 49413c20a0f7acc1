//! A changed mapping is carried out while orders come in: search never fails, and no order that it has found is ever missing.

use std::{cell::Cell, collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use commerce_e2e::{
    cluster::{JOBS, PIPELINES},
    eventually::eventually,
    orders::{Order, Orders, new_user},
    pipeline::READY,
    scenario::{Outcome, scenario},
    stores,
    tenant::Tenant,
};
use serde_json::{Value, json};
use tokio::time::interval;

/// Orders that the new index has to be filled with.
const BEFORE: usize = 150;
/// One order, and one search for all, in each of these.
const PACE: Duration = Duration::from_millis(200);
/// The index before goes soon after the new one serves.
const CLEANED_UP: Duration = Duration::from_mins(1);

#[tokio::test]
async fn a_changed_mapping_gives_a_new_index_while_orders_are_placed_and_found() -> Outcome {
    scenario(async |s| {
        let mut second = Tenant::prepare(s, "reindex").await?;
        second.spec["deletionPolicy"] = json!("Delete");
        second.apply().await?;
        second.pipeline.ready().await?;
        let (orders, user) = (second.orders()?, new_user());
        let mut placed = Vec::new();
        for _ in 0..BEFORE {
            placed.push(orders.place_persistently(&Order::of(&user)).await?);
        }
        orders.finds(&user, &placed, Duration::from_secs(30)).await?;
        let before = active(&second).await?;

        let enough = Cell::new(false);
        let change = async {
            let properties = json!({"note": {"type": "keyword"}});
            let change =
                json!({"spec": {"elasticsearch": {"index": {"mappings": {"properties": properties}}}}});
            let (namespace, name) = (&second.pipeline.namespace, &second.pipeline.name);
            s.cluster.change(PIPELINES, namespace, name, &change).await?;
            eventually("the reindexing is told", Duration::from_secs(30), async || {
                let condition = second.pipeline.condition("IndexReady").await?;
                ensure!(
                    (condition.status.as_str(), condition.reason.as_str()) == ("True", "Reindexing"),
                    "{condition:?}"
                );
                Ok(())
            })
            .await?;
            second.pipeline.ready_within(READY).await?;
            let after = active(&second).await?;
            ensure!(after != before, "{before} is still the active index");
            eventually("the index before is gone", CLEANED_UP, async || {
                let left = stores::elasticsearch(&s.cluster, &format!("/{before}")).await?;
                ensure!(left.is_none(), "{before} is still there");
                let jobs = s
                    .cluster
                    .list(JOBS, namespace, "app.kubernetes.io/component=reindex")
                    .await?;
                ensure!(jobs.is_empty(), "{} Jobs are left", jobs.len());
                Ok(())
            })
            .await?;
            enough.set(true);
            Ok(after)
        };
        let shop = place_and_search(&orders, &user, &enough);
        let (after, more) = tokio::try_join!(change, shop)?;
        placed.extend(more);
        orders.finds(&user, &placed, Duration::from_secs(10)).await?;

        let index = second.pipeline.object().await?["status"]["index"].clone();
        ensure!(
            index["active"] == after.as_str() && index["target"] == Value::Null,
            "{index}"
        );
        let mapping = stores::elasticsearch(&s.cluster, &format!("/{after}/_mapping/field/note")).await?;
        let mapping = mapping.unwrap_or_default();
        ensure!(
            mapping[&after]["mappings"]["note"]["mapping"]["note"]["type"] == "keyword",
            "{mapping}"
        );
        Ok(())
    })
    .await
}

/// The index that the alias leads to, alone.
async fn active(tenant: &Tenant) -> Result<String> {
    let (mut indices, _) = tenant.indices_and_template().await?;
    ensure!(indices.len() == 1, "the alias leads to {indices:?}");
    Ok(indices.remove(0))
}

/// Places orders until it is enough. No search may fail, and what was found once is found from then on. Gives their ids.
async fn place_and_search(orders: &Orders, user: &str, enough: &Cell<bool>) -> Result<Vec<String>> {
    let mut pace = interval(PACE);
    let (mut placed, mut known) = (Vec::new(), BTreeSet::new());
    while !enough.get() {
        pace.tick().await;
        placed.push(orders.place(&Order::of(user)).await?);
        let found: BTreeSet<String> = orders.found(user).await?.into_keys().collect();
        let missing = known.difference(&found).collect::<Vec<_>>();
        ensure!(
            missing.is_empty(),
            "orders that were found are missing: {missing:?}"
        );
        known = found;
    }
    Ok(placed)
}
