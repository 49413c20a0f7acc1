//! Events become documents, and neither order nor repetition changes which.

use anyhow::{Context as _, Result};
use chrono::DateTime;
use pretty_assertions::assert_eq;

use crate::{
    events::{cancelled, created, expected},
    running::eventually,
    world::{CANCELLED, World},
};

#[tokio::test]
async fn a_created_order_is_found_with_all_that_is_known_about_it() -> Result<()> {
    let world = World::new().await?;
    let indexer = world.start().await?;
    let event = created(1);
    world.publish(std::slice::from_ref(&event)).await?;
    world.wait_until_searchable(1).await?;

    let document = world.document("1").await?.context("the document")?;
    assert_eq!(document["orderId"], "1");
    assert_eq!(document["skuId"], 7);
    assert_eq!(document["quantity"], 2);
    assert_eq!(document["userId"], "user-1");
    assert_eq!(document["status"], "CREATED");
    assert_eq!(document["version"], 1);
    assert_eq!(document["correlationId"], "correlation-1");
    assert_eq!(document["topic"], world.kafka.topic("order.created"));
    assert_eq!(document["offset"], 0);
    let time = |field: &str| {
        document[field]
            .as_str()
            .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
    };
    let created_at = time("createdAt").context("createdAt")?;
    assert_eq!(created_at, event.created_at);
    // Kafka counts milliseconds.
    assert!(time("publishedAt").context("publishedAt")?.timestamp_millis() >= created_at.timestamp_millis());
    assert!(time("indexedAt") >= time("publishedAt"));
    indexer.stop().await
}

#[tokio::test]
async fn shuffled_and_repeated_events_end_in_the_last_state() -> Result<()> {
    let world = World::new().await?;
    let orders = 1..=500;
    // Cancelled before created, twice each, and half of the orders not cancelled at all.
    let cancellations = orders.clone().rev().filter(|id| id % 2 == 0).map(cancelled);
    let events: Vec<_> = cancellations
        .clone()
        .chain(orders.clone().map(created))
        .chain(cancellations)
        .collect();
    world.publish(&events).await?;
    let indexer = world.start_with(&[("INDEXER_BULK_MAX_DOCUMENTS", "7")]).await?;
    world.wait_until_committed().await?;
    world.publish(&orders.map(created).collect::<Vec<_>>()).await?;
    world.wait_until_committed().await?;
    world.assert_holds(&expected(&events)).await?;
    indexer.stop().await
}

#[tokio::test]
async fn a_replay_from_the_first_event_changes_no_document() -> Result<()> {
    let world = World::new().await?;
    let events: Vec<_> = (1..=1000).map(created).chain((1..=300).map(cancelled)).collect();
    world.publish(&events).await?;
    let indexer = world.start().await?;
    world.wait_until_committed().await?;
    indexer.stop().await?;
    let before = world.documents().await?;
    assert_eq!(before.len(), 1000);

    world.reset_group().await?;
    let indexer = world.start().await?;
    eventually("a replay of all", async || {
        let conflicts = indexer
            .metric("commerce_indexer_events_total{outcome=\"conflict\"}")
            .await
            .unwrap_or_default();
        if conflicts >= 1300 {
            Ok(())
        } else {
            Err(format!("{conflicts} conflicts"))
        }
    })
    .await?;
    assert_eq!(
        indexer
            .metric("commerce_indexer_events_total{outcome=\"indexed\"}")
            .await?,
        0
    );
    indexer.stop().await?;
    assert_eq!(world.documents().await?, before);
    Ok(())
}

#[tokio::test]
async fn a_stop_commits_all_that_was_written_so_that_the_next_indexer_repeats_nothing() -> Result<()> {
    let world = World::new().await?;
    world
        .publish(&(1..=2000).map(created).collect::<Vec<_>>())
        .await?;
    let indexer = world.start().await?;
    world.wait_until_searchable(2000).await?;
    indexer.stop().await?;
    assert_eq!(world.lag()?, 0);

    let indexer = world.start().await?;
    world.publish(&[cancelled(1)]).await?;
    eventually("the cancelled order", async || match world.document("1").await {
        Ok(Some(document)) if document["status"] == "CANCELLED" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    assert_eq!(
        indexer
            .metric("commerce_indexer_events_total{outcome=\"conflict\"}")
            .await?,
        0
    );
    let document = world.document("1").await?.context("the document")?;
    assert_eq!(document["topic"], world.kafka.topic(CANCELLED));
    indexer.stop().await
}
