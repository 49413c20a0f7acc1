//! Stores that refuse, stall and go away, indexers that come and go, each under traffic: in the end `verify` finds no
//! difference, and the dead-letter topics hold exactly what was malformed.

use std::time::Duration;

use anyhow::Result;
use commerce_core::testing::{Elasticsearch, FaultProxy, Faults, Kafka};
use reqwest::StatusCode;
use serde_json::json;
use tokio::time::sleep;

use crate::{
    crashes::{spawn, wait_for_documents},
    running::eventually,
    shop::Shop,
    traffic::Traffic,
    world::World,
};

/// So many orders a time.
const ORDERS: i64 = 900;
/// Their events.
const EVENTS: usize = 1200;
const SMALL: (&str, &str) = ("INDEXER_BULK_MAX_DOCUMENTS", "50");

async fn proxy_of(shop: &Shop) -> Result<FaultProxy> {
    Ok(FaultProxy::start(&shop.world.elasticsearch.url).await?)
}

fn through(proxy: &FaultProxy) -> (&'static str, &str) {
    ("ELASTICSEARCH_URL", proxy.url().as_str())
}

#[tokio::test]
async fn every_second_document_refused_for_a_while() -> Result<()> {
    let shop = Shop::new().await?;
    let proxy = proxy_of(&shop).await?;
    let mut traffic = Traffic::new(&shop);
    proxy.set(Faults {
        every_second: true,
        ..Faults::default()
    });
    let indexer = shop.world.start_with(&[through(&proxy), SMALL]).await?;
    traffic.flow(ORDERS).await?;
    eventually("refusals", async || {
        let refused: usize = proxy.bulks().iter().map(|bulk| bulk.refused).sum();
        if refused >= EVENTS / 2 {
            Ok(())
        } else {
            Err(format!("{refused} so far"))
        }
    })
    .await?;
    proxy.set(Faults::default());
    traffic.flow(ORDERS).await?;
    assert_eq!(traffic.assert_arrived().await?, 0);
    indexer.stop().await
}

#[tokio::test]
async fn whole_requests_refused_for_a_while() -> Result<()> {
    let shop = Shop::new().await?;
    let proxy = proxy_of(&shop).await?;
    let mut traffic = Traffic::new(&shop);
    let indexer = shop.world.start_with(&[through(&proxy), SMALL]).await?;
    indexer.wait_until_assigned().await?;
    for status in [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE] {
        proxy.set(Faults {
            status: Some(status),
            ..Faults::default()
        });
        traffic.flow(ORDERS).await?;
        indexer
            .wait_until_failing("elasticsearch", status.as_str())
            .await?;
        proxy.set(Faults::default());
        assert_eq!(traffic.assert_arrived().await?, 0);
    }
    indexer.stop().await
}

#[tokio::test]
async fn requests_become_as_small_as_elasticsearch_takes_them() -> Result<()> {
    const MOST: usize = 500;
    for faults in [
        Faults {
            most_documents: Some(MOST),
            ..Faults::default()
        },
        Faults {
            most_in_shard: Some(MOST),
            ..Faults::default()
        },
    ] {
        let shop = Shop::new().await?;
        let proxy = proxy_of(&shop).await?;
        let mut traffic = Traffic::new(&shop);
        proxy.set(faults.clone());
        traffic.flow(20 * ORDERS).await?;
        let indexer = shop.world.start_with(&[through(&proxy)]).await?;
        assert_eq!(traffic.assert_arrived().await?, 0);
        let bulks = proxy.bulks();
        assert!(bulks[0].refused > 0, "nothing was refused: {bulks:?}");
        let later = &bulks[bulks.len() / 2..];
        // It tries larger ones now and then.
        let refused = later.iter().filter(|bulk| bulk.refused > 0).count();
        assert!(refused * 3 <= later.len(), "{faults:?}: {later:?}");
        assert!(
            later.iter().all(|bulk| bulk.documents <= 2 * MOST),
            "{faults:?}: {later:?}"
        );
        indexer.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn slow_answers() -> Result<()> {
    let shop = Shop::new().await?;
    let proxy = proxy_of(&shop).await?;
    let mut traffic = Traffic::new(&shop);
    proxy.set(Faults {
        delay: Duration::from_millis(400),
        ..Faults::default()
    });
    let indexer = shop.world.start_with(&[through(&proxy), SMALL]).await?;
    traffic.flow(ORDERS).await?;
    assert_eq!(traffic.assert_arrived().await?, 0);
    indexer.stop().await
}

#[tokio::test]
async fn an_index_that_is_read_only_for_want_of_disk() -> Result<()> {
    let shop = Shop::new().await?;
    let mut traffic = Traffic::new(&shop);
    let indexer = shop.world.start_with(&[SMALL]).await?;
    traffic.flow(ORDERS).await?;
    let block = async |value| {
        let settings = json!({"index.blocks.read_only_allow_delete": value});
        shop.ask("PUT", "_settings", Some(&settings)).await
    };
    block(json!(true)).await?;
    traffic.flow(ORDERS).await?;
    indexer
        .wait_until_failing("elasticsearch", "read-only-allow-delete")
        .await?;
    block(json!(null)).await?;
    assert_eq!(traffic.assert_arrived().await?, 0);
    indexer.stop().await
}

#[tokio::test]
async fn an_elasticsearch_that_is_killed_again_and_again() -> Result<()> {
    let store = Elasticsearch::start().await?;
    let shop = Shop::of(World::with_own_elasticsearch(&store).await?).await?;
    let mut traffic = Traffic::new(&shop);
    let indexer = shop.world.start_with(&[SMALL]).await?;
    for _ in 0..3 {
        traffic.flow(ORDERS).await?;
        store.kill()?;
        traffic.flow(ORDERS).await?;
        indexer
            .wait_until_failing("elasticsearch", "tcp connect error")
            .await?;
        store.restart().await?;
    }
    assert_eq!(traffic.assert_arrived().await?, 0);
    indexer.stop().await
}

#[tokio::test]
async fn a_broker_that_is_killed_again_and_again() -> Result<()> {
    let store = Kafka::start().await?;
    let shop = Shop::of(World::with_own_kafka(&store).await?).await?;
    let mut traffic = Traffic::new(&shop);
    let indexer = shop.world.start_with(&[SMALL]).await?;
    for _ in 0..3 {
        traffic.flow(ORDERS).await?;
        store.kill()?;
        indexer.wait_until_failing("kafka", "Kafka").await?;
        store.restart().await?;
    }
    traffic.flow(ORDERS).await?;
    traffic.assert_arrived().await?;
    assert!(indexer.is_running());
    indexer.stop().await
}

#[tokio::test]
async fn an_indexer_that_is_killed_each_second() -> Result<()> {
    let shop = Shop::new().await?;
    let mut traffic = Traffic::new(&shop);
    for round in 0..10 {
        let mut process = spawn(&shop.world)?;
        traffic.flow(ORDERS).await?;
        // The group notices only after the session timeout that a member is dead, and gives none its partitions before.
        if round % 5 == 0 {
            wait_for_documents(&shop.world, 1 + shop.world.searchable().await?).await?;
        } else {
            sleep(Duration::from_secs(1)).await;
        }
        process.kill().await?;
    }
    let process = spawn(&shop.world)?;
    traffic.assert_arrived().await?;
    drop(process);
    Ok(())
}

#[tokio::test]
async fn indexers_that_come_and_go() -> Result<()> {
    let shop = Shop::new().await?;
    let mut traffic = Traffic::new(&shop);
    let mut members = vec![shop.world.start_with(&[SMALL]).await?];
    for round in 0..4 {
        traffic.flow(ORDERS).await?;
        members.push(shop.world.start_with(&[SMALL]).await?);
        traffic.flow(ORDERS).await?;
        let oldest = members.remove(0);
        if round == 2 {
            oldest.crash().await;
        } else {
            oldest.stop().await?;
        }
    }
    traffic.assert_arrived().await?;
    for member in members {
        member.stop().await?;
    }
    Ok(())
}
