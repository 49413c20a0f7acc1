//! `indexer dlq`: dead letters are shown as they are, and published again once.

use anyhow::{Context as _, Result};
use commerce_core::{index, topics};
use pretty_assertions::assert_eq;
use rdkafka::{
    Message as _,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use serde_json::{Value, json};

use crate::{
    events::created,
    running::{PATIENCE, eventually},
    shop::{Printed, run},
    world::{CREATED, World},
};

async fn dlq(world: &World, arguments: &[&str]) -> Result<Printed> {
    let mut environment = world.environment();
    environment.retain(|(name, _)| name.starts_with("KAFKA_"));
    run(&[&["dlq"], arguments].concat(), environment).await
}

async fn list(world: &World) -> Result<Vec<Value>> {
    let printed = dlq(world, &["list", "-o", "json"]).await?;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    Ok(serde_json::from_str(&printed.out)?)
}

async fn letters(world: &World, count: usize) -> Result<Vec<Value>> {
    eventually(&format!("{count} dead letters"), async || {
        match list(world).await {
            Ok(letters) if letters.len() == count => Ok(letters),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

fn address(letter: &Value) -> &str {
    letter["address"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_letter_is_shown_and_replayed_and_one_that_fails_again_says_so() -> Result<()> {
    let world = World::new().await?;
    let printed = dlq(&world, &["list"]).await?;
    assert_eq!(printed.out, "there are no dead letters\n", "{printed:?}");
    let indexer = world.start().await?;
    let hostile = "{\"orderId\": \"\u{1b}[31m\u{202e}\", \"colour\": 1}";
    world
        .publish_raw(vec![(CREATED, "key\u{1b}[2J", hostile.into())])
        .await?;

    let found = letters(&world, 1).await?;
    let first = address(&found[0]);
    assert_eq!(found[0]["reason"], "malformed");
    assert_eq!(
        (&found[0]["replayed"], &found[0]["replays"]),
        (&json!(false), &json!(0))
    );
    let topic = topics::dead_letters(&world.kafka.topic(CREATED));
    assert!(first.starts_with(&format!("{topic}/")), "{first}");
    let listed = dlq(&world, &["list", "--topic", CREATED]).await?;
    let shown = dlq(&world, &["show", first]).await?;
    for printed in [&listed, &shown] {
        assert_eq!(printed.code, Some(0), "{printed:?}");
        assert!(printed.out.contains("key\\u{1b}[2J"), "{printed:?}");
        assert!(
            printed
                .out
                .chars()
                .all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}')),
            "{printed:?}"
        );
    }
    assert!(listed.out.contains("waiting"), "{listed:?}");
    assert!(shown.out.contains("\"colour\": 1"), "{shown:?}");
    let whole = dlq(&world, &["show", first, "-o", "json"]).await?;
    let whole: Value = serde_json::from_str(&whole.out)?;
    assert_eq!(whole["payload"], hostile);

    let printed = dlq(&world, &["replay", first]).await?;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert!(
        printed
            .out
            .starts_with(&format!("{first} is replayed as {}/", world.kafka.topic(CREATED))),
        "{printed:?}"
    );
    let found = letters(&world, 2).await?;
    assert_eq!(
        (&found[0]["replayed"], &found[0]["replays"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(
        (&found[1]["replayed"], &found[1]["replays"]),
        (&json!(false), &json!(1))
    );
    let second = dlq(&world, &["show", address(&found[1]), "-o", "json"]).await?;
    let second: Value = serde_json::from_str(&second.out)?;
    assert_eq!(second["payload"], hostile);
    assert!(
        second["headers"]
            .as_array()
            .context("headers")?
            .contains(&json!(["replayed-from", first])),
        "{second}"
    );

    let printed = dlq(&world, &["replay", first]).await?;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert!(printed.out.contains("was replayed before"), "{printed:?}");
    let printed = dlq(&world, &["replay", first, "--again"]).await?;
    assert!(printed.out.contains("1 letter is replayed"), "{printed:?}");
    letters(&world, 3).await?;
    indexer.stop().await
}

#[tokio::test]
async fn when_the_cause_is_mended_all_are_replayed_once() -> Result<()> {
    let world = World::empty().await?;
    world.create_topics().await?;
    world
        .create_index_with(|spec| {
            spec.properties
                .insert("quantity".to_owned(), json!({"type": "byte"}));
        })
        .await?;
    let indexer = world.start().await?;
    let many: Vec<_> = (1..=700)
        .map(|id| {
            let mut event = created(id);
            event.quantity = if id % 7 == 0 { 2 } else { 1000 };
            event
        })
        .collect();
    world.publish(&many).await?;
    world.wait_until_committed().await?;
    let printed = dlq(&world, &["list", "--limit", "20"]).await?;
    assert_eq!(printed.out.lines().count(), 22, "{printed:?}");
    assert!(
        printed
            .out
            .ends_with("the newest 20 of 600 are shown: --limit shows more\n"),
        "{printed:?}"
    );
    indexer.stop().await?;
    index::delete(&world.client, &world.elasticsearch.index).await?;
    world.create_index().await?;
    let indexer = world.start().await?;

    // One by its address, so that the others are on both sides of it.
    let printed = dlq(&world, &["list", "--limit", "300", "-o", "json"]).await?;
    let found: Vec<Value> = serde_json::from_str(&printed.out)?;
    let printed = dlq(&world, &["replay", address(&found[0])]).await?;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let printed = dlq(&world, &["replay", "--all"]).await?;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert!(
        printed.out.ends_with("\n599 letters are replayed\n"),
        "{printed:?}"
    );
    world.wait_until_searchable(600).await?;
    let document = world.document("1").await?.context("the document")?;
    assert_eq!(document["quantity"], 1000);
    let printed = dlq(&world, &["replay", "--all"]).await?;
    assert_eq!(printed.out, "there is no letter that was not replayed\n");
    assert!(
        list(&world)
            .await?
            .iter()
            .all(|letter| letter["replayed"] == true)
    );
    indexer.stop().await
}

#[tokio::test]
async fn an_event_too_large_for_a_letter_is_replayed_from_where_it_was_and_a_forged_one_is_not() -> Result<()>
{
    let world = World::new().await?;
    let event = serde_json::to_vec(&created(1))?;
    world.publish_raw(vec![(CREATED, "1", event)]).await?;
    let (origin, topic) = (
        world.kafka.topic(CREATED),
        topics::dead_letters(&world.kafka.topic(CREATED)),
    );
    let producer: FutureProducer = world.kafka.client("test").create()?;
    let letter = async |key: &str, headers: &[(&str, &str)]| {
        let headers = headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
            all.insert(Header {
                key,
                value: Some(*value),
            })
        });
        let letter = FutureRecord::<str, str>::to(&topic)
            .partition(0)
            .key(key)
            .headers(headers);
        producer.send(letter, PATIENCE).await.map_err(|(error, _)| error)
    };
    let indexer = world.start().await?;
    world.wait_until_searchable(1).await?;
    let document = world.document("1").await?.context("the document")?;
    let (partition, offset) = (document["partition"].to_string(), document["offset"].to_string());
    let from = [
        ("dlq-topic", origin.as_str()),
        ("dlq-partition", &partition),
        ("dlq-offset", &offset),
        ("dlq-payload", "left out: too large"),
    ];
    letter("1", &from).await?;
    letter("2", &from).await?;
    let mut elsewhere = from;
    elsewhere[0].1 = "order.paid";
    letter("1", &elsewhere).await?;
    letter("1", &[]).await?;
    let mut nowhere = from;
    nowhere[2].1 = "9223372036854775807";
    letter("1", &nowhere).await?;
    nowhere[1].1 = "99";
    letter("1", &nowhere).await?;

    let printed = dlq(&world, &["replay", "--all"]).await?;
    assert_eq!(printed.code, Some(1), "{printed:?}");
    assert_eq!(printed.err, "1 letter is replayed, 5 not\n");
    for (offset, text) in [
        (0, " is replayed as "),
        (1, "is gone"),
        (2, "order.paid, whose dead letters are elsewhere"),
        (3, "does not tell where it comes from"),
        (4, "is gone"),
        (5, "reading the offsets of"),
    ] {
        let line = printed
            .out
            .lines()
            .find(|line| line.starts_with(&format!("{topic}/0/{offset} ")))
            .context("a line")?;
        assert!(line.contains(text), "{line}");
    }
    eventually("a repeated event", async || {
        match indexer
            .metric("commerce_indexer_events_total{outcome=\"conflict\"}")
            .await
        {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    assert_eq!(world.letters().await?.len(), 6);
    assert_eq!(world.letters().await?[0].record.payload(), None);
    let states: Vec<_> = list(&world)
        .await?
        .iter()
        .map(|letter| letter["replayed"].clone())
        .collect();
    assert_eq!(states, [true, false, false, false, false, false]);
    indexer.stop().await
}

#[tokio::test]
async fn what_is_wrong_with_the_call_or_kafka_is_told_in_one_line() -> Result<()> {
    let world = World::new().await?;
    let topic = topics::dead_letters(&world.kafka.topic(CREATED));
    for (arguments, code, text) in [
        (&["show", "17"][..], 2, "topic/partition/offset"),
        (&["show", &format!("{topic}/0/0")], 1, "there is no letter"),
        (&["show", &format!("{topic}/99/0")], 1, "there is no letter"),
        (&["show", "order.paid.dlq/0/0"], 1, "is no topic of dead letters"),
        (&["list", "--topic", "x\u{1b}"], 1, "x\\u{1b} is no topic"),
        (&["list", "--limit", "0"], 2, "--limit"),
        (&["replay"], 2, "--all"),
        (&["replay", "--topic", "x", "a/0/0"], 2, "--topic"),
        (&["replay", "--all", "a/0/0"], 2, "--all"),
    ] {
        let printed = dlq(&world, arguments).await?;
        assert_eq!(printed.code, Some(code), "{printed:?}");
        assert!(printed.err.contains(text), "{text:?} is not in {:?}", printed.err);
        assert!(code == 2 || printed.err.lines().count() == 1, "{printed:?}");
    }
    let empty = World::empty().await?;
    let printed = dlq(&empty, &["list"]).await?;
    assert!(
        printed.code == Some(1) && printed.err.contains("does not exist"),
        "{printed:?}"
    );
    let away = vec![("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1".to_owned())];
    let printed = run(&["dlq", "list"], away).await?;
    assert_eq!(
        (printed.code, printed.err.lines().count()),
        (Some(1), 1),
        "{printed:?}"
    );
    assert!(
        printed.err.contains("reading the topics from Kafka"),
        "{printed:?}"
    );
    Ok(())
}
