//! Events that can never be indexed go to the dead-letter topic, exactly those, and hold up nobody.

use anyhow::{Context as _, Result};
use rdkafka::Message as _;
use serde_json::json;

use crate::{
    events::created,
    world::{CREATED, World},
};

#[tokio::test]
async fn only_the_poison_goes_to_the_dead_letters_and_says_why_and_where_from() -> Result<()> {
    let world = World::empty().await?;
    world.create_topics().await?;
    // Quantities above 127 violate this mapping.
    world
        .create_index_with(|spec| {
            spec.properties
                .insert("quantity".to_owned(), json!({"type": "byte"}));
        })
        .await?;

    let mut unknown_field = serde_json::to_value(created(1001))?;
    unknown_field["colour"] = "red".into();
    let mut too_many = created(1002);
    too_many.quantity = 1000;
    let mut immense = created(1003);
    immense.user_id = "u".repeat(40_000);
    let poison = [
        ("malformed", b"{\"orderId\": ".to_vec()),
        ("malformed", serde_json::to_vec(&unknown_field)?),
        ("malformed", Vec::new()),
        ("rejected", serde_json::to_vec(&too_many)?),
        ("rejected", serde_json::to_vec(&immense)?),
    ];
    let good: Vec<_> = (1..=100).map(created).collect();
    let mut records = Vec::new();
    for (place, event) in good.iter().enumerate() {
        if place % 20 == 10 {
            records.push((CREATED, "poison", poison[place / 20].1.clone()));
        }
        records.push((CREATED, event.order_id.as_str(), serde_json::to_vec(event)?));
    }
    world.publish_raw(records).await?;

    let indexer = world.start().await?;
    world.wait_until_searchable(100).await?;
    world.wait_until_committed().await?;

    let letters = world.letters().await?;
    let found: Vec<_> = letters
        .iter()
        .map(|letter| (letter.headers["dlq-reason"].as_str(), letter.record.payload()))
        .collect();
    let sent: Vec<_> = poison
        .iter()
        .map(|(reason, value)| (*reason, Some(value.as_slice())))
        .collect();
    assert_eq!(found, sent);
    for letter in &letters {
        assert_eq!(letter.record.key(), Some(b"poison".as_slice()));
        assert_eq!(letter.headers["dlq-topic"], world.kafka.topic(CREATED));
        assert!(letter.headers["dlq-partition"].parse::<i32>().is_ok());
    }
    assert!(
        letters[1].headers["dlq-error"].contains("colour"),
        "{:?}",
        letters[1].headers
    );
    assert!(
        letters[3].headers["dlq-error"].contains("quantity"),
        "{:?}",
        letters[3].headers
    );
    assert_eq!(
        indexer
            .metric("commerce_indexer_events_total{outcome=\"dead_lettered\"}")
            .await?,
        5
    );
    indexer.stop().await
}

#[tokio::test]
async fn a_document_that_no_request_can_hold_is_told_apart_from_its_neighbours() -> Result<()> {
    let world = World::new().await?;
    let mut events: Vec<_> = (1..=9).map(created).collect();
    // Elasticsearch refuses a whole request for the sake of one such id, unless the indexer looks first.
    events[4].order_id = "9".repeat(600);
    world.publish(&events).await?;
    let indexer = world.start().await?;
    world.wait_until_searchable(8).await?;
    world.wait_until_committed().await?;
    let letters = world.letters().await?;
    assert_eq!(letters.len(), 1);
    let letter = letters.first().context("the letter")?;
    assert!(
        letter.headers["dlq-error"].contains("orderId has 600 bytes"),
        "{:?}",
        letter.headers
    );
    indexer.stop().await
}
