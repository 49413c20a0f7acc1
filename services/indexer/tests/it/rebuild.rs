//! `indexer rebuild`: a new index, filled while the pipeline goes on.

use anyhow::{Context as _, Result};
use commerce_core::{
    elasticsearch::body,
    index::{self, IndexSpec},
    testing::Elasticsearch,
};
use elasticsearch::indices::{IndicesCreateParts, IndicesGetMappingParts, IndicesPutAliasParts};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::{
    running::eventually,
    shop::{Shop, command},
    world::World,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_filled_beside_live_events_ends_as_postgres_is() -> Result<()> {
    let shop = Shop::new().await?;
    shop.place(20_000).await?;
    // Events go into the new index, too, by an alias and a group of its own.
    let (alias, into) = (&shop.world.elasticsearch.index, &second(&shop));
    let client = &shop.world.client;
    index::create_beside(client, alias, into).await?;
    let other_alias = format!("{alias}-next");
    let parts = IndicesPutAliasParts::IndexName(&[into], &other_alias);
    body("put the alias", client.indices().put_alias(parts).send().await).await?;
    let other = shop
        .world
        .start_with(&[
            ("ELASTICSEARCH_INDEX", &other_alias),
            ("KAFKA_GROUP_ID", &format!("{alias}-next")),
        ])
        .await?;
    other.wait_until_assigned().await?;

    let enough = CancellationToken::new();
    let orders = async {
        let mut id = 0;
        while !enough.is_cancelled() {
            let cancelled = shop.cancel(&[id % 20_000 + 1, (id + 7_000) % 20_000 + 1]).await?;
            shop.world.publish(&cancelled).await?;
            let placed = shop.place(20).await?;
            shop.world.publish(&placed).await?;
            id += 501;
        }
        anyhow::Ok(())
    };
    let rebuild = async {
        let printed = shop.run(&["rebuild", "--into", into, "--batch", "200"]).await?;
        enough.cancel();
        anyhow::Ok(printed)
    };
    let ((), printed) = tokio::try_join!(orders, rebuild)?;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert!(printed.err.contains("exists already"), "{printed:?}");
    assert!(
        printed
            .out
            .contains(&format!("indexer verify --repair --index {into}")),
        "{printed:?}"
    );
    // By default, events that are still on their way are waited for.
    let printed = shop.run(&["verify", "--index", into]).await?;
    assert!(
        printed.code == Some(0) && printed.out.contains("no differences"),
        "{printed:?}"
    );
    other.stop().await
}

/// What is placed while the mapping changes is found at each moment, and at the end nothing is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_rebuild_misses_nothing_when_the_alias_is_moved() -> Result<()> {
    let shop = Shop::new().await?;
    shop.filled(5_000).await?;
    let (alias, into) = (&shop.world.elasticsearch.index, &second(&shop));
    let indexer = shop.world.start().await?;
    indexer.wait_until_assigned().await?;

    let enough = CancellationToken::new();
    let orders = async {
        let mut id = 0;
        while !enough.is_cancelled() {
            let cancelled = shop.cancel(&[id % 5_000 + 1]).await?;
            shop.world.publish(&cancelled).await?;
            let placed = shop.place(20).await?;
            shop.world.publish(&placed).await?;
            id += 501;
        }
        anyhow::Ok(())
    };
    let change = async {
        let printed = shop.run(&["rebuild", "--into", into, "--live"]).await?;
        assert_eq!(printed.code, Some(0), "{printed:?}");
        // What it says, to the letter, and with nothing mended before or after it.
        let (_, actions) = printed
            .out
            .split_once("POST /_aliases ")
            .context(printed.out.clone())?;
        let actions: Value = serde_json::from_str(actions.lines().next().unwrap_or_default())?;
        let before = shop.world.searchable().await?;
        let moved = shop
            .world
            .client
            .indices()
            .update_aliases()
            .body(actions)
            .send()
            .await;
        body("move the alias", moved).await?;
        assert!(
            shop.world.searchable().await? >= before,
            "orders that were found are missing"
        );
        enough.cancel();
        anyhow::Ok(())
    };
    tokio::try_join!(orders, change)?;
    shop.world.wait_until_committed().await?;
    assert_eq!(
        index::active_index(&shop.world.client, alias).await?.as_ref(),
        Some(into)
    );
    let printed = shop.run(&["verify"]).await?;
    assert!(
        printed.code == Some(0) && printed.out.contains("no differences"),
        "{printed:?}"
    );
    indexer.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_next_index_that_refuses_an_event_is_let_go_and_the_present_one_goes_on() -> Result<()> {
    let shop = Shop::new().await?;
    shop.filled(10).await?;
    let (alias, into) = (&shop.world.elasticsearch.index, &second(&shop));
    let client = &shop.world.client;
    let mapping = json!({"mappings": {"properties": {"userId": {"type": "long"}}}});
    let indices = client.indices();
    let create = indices.create(IndicesCreateParts::Index(into)).body(mapping);
    body("create", create.send().await).await?;
    let next = format!("{alias}~next");
    index::move_alias(client, &next, into).await?;

    let events = shop.place(5).await?;
    shop.index(&events).await?;
    shop.world.wait_until_searchable(15).await?;
    assert_eq!(index::active_index(client, &next).await?, None);
    assert_eq!(shop.count(into).await?, 0);
    assert!(shop.world.letters().await?.is_empty(), "no event is to blame");
    Ok(())
}

#[tokio::test]
async fn an_interrupted_rebuild_says_where_to_go_on_and_a_killed_one_can_be_repeated() -> Result<()> {
    let shop = Shop::new().await?;
    shop.filled(30).await?;
    shop.place(30_000).await?;
    let into = &second(&shop);
    let slowly = ["rebuild", "--into", into, "--batch", "50", "--parallel", "2"];

    let rebuild = command(&slowly, shop.environment()).spawn()?;
    wait_for_documents(&shop, into, 1_000).await?;
    let pid = rebuild.id().context("a process id")?.to_string();
    Command::new("kill").args(["-INT", &pid]).status().await?;
    let ended = rebuild.wait_with_output().await?;
    let told = String::from_utf8(ended.stderr)?;
    assert_eq!(ended.status.code(), Some(130), "{told}");
    let (_, rest) = told.split_once("--from ").context(told.clone())?;
    let from: i64 = rest.split(' ').next().context("an id")?.parse()?;
    assert!(from > 500 && from < 30_000, "{told}");
    let before = (from - 1).to_string();
    let (printed, found) = shop.verify(&["--index", into, "--to", &before]).await?;
    assert_eq!((printed.code, found), (Some(0), Vec::new()));

    let mut killed = command(
        &[&slowly[..], &["--from", &from.to_string()]].concat(),
        shop.environment(),
    )
    .spawn()?;
    wait_for_documents(&shop, into, from.unsigned_abs() + 2_000).await?;
    killed.kill().await?;
    let printed = shop
        .run(&["rebuild", "--into", into, "--from", &from.to_string()])
        .await?;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let (printed, found) = shop.verify(&["--index", into]).await?;
    assert_eq!((printed.code, found), (Some(0), Vec::new()));

    // Again, from the beginning: nothing is left to write.
    let printed = shop.run(&["rebuild", "--into", into]).await?;
    let told = format!(
        "{into}: 0 orders written, 30030 there already in this version or a newer one; it has 30030 documents\n"
    );
    assert!(printed.out.starts_with(&told), "{printed:?}");
    Ok(())
}

#[tokio::test]
async fn a_new_index_has_the_template_and_the_alias_stays_where_it_is() -> Result<()> {
    let shop = Shop::new().await?;
    shop.filled(10).await?;
    let (alias, into) = (&shop.world.elasticsearch.index, &second(&shop));
    let client = &shop.world.client;
    let active = index::active_index(client, alias).await?;
    let mut changed = IndexSpec::new(alias);
    changed
        .properties
        .insert("quantity".into(), json!({"type": "byte"}));
    index::ensure(client, &changed).await?;
    sqlx::query("update orders set quantity = 1000 where order_id = 7")
        .execute(&shop.pool)
        .await?;

    let printed = shop.run(&["rebuild", "--into", into]).await?;
    assert_eq!(printed.code, Some(i32::from(index::REFUSED)), "{printed:?}");
    assert!(printed.err.contains("refused: order 7: "), "{printed:?}");
    let last = printed.err.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("Elasticsearch refused 1 order, first order 7: "),
        "{printed:?}"
    );
    assert!(printed.out.contains("9 orders written"), "{printed:?}");
    let mapping = client
        .indices()
        .get_mapping(IndicesGetMappingParts::Index(&[into]))
        .send()
        .await;
    let mapping = body("read the mapping", mapping).await?;
    assert_eq!(mapping[into]["mappings"], changed.mappings());
    assert_eq!(index::active_index(client, alias).await?, active);

    let (printed, found) = shop.verify(&["--index", into, "--repair"]).await?;
    assert_eq!(printed.code, Some(3), "{printed:?}");
    assert_eq!(found, [("7".to_owned(), "missing".to_owned())]);
    assert!(printed.err.contains("order 7 is not repaired: "), "{printed:?}");
    Ok(())
}

#[tokio::test]
async fn an_elasticsearch_that_restarts_is_waited_for() -> Result<()> {
    let store = Elasticsearch::start().await?;
    let shop = Shop::of(World::with_own_elasticsearch(&store).await?).await?;
    shop.place(30_000).await?;
    let into = &second(&shop);
    let restart = async {
        wait_for_documents(&shop, into, 1_000).await?;
        store.kill()?;
        store.restart().await?;
        anyhow::Ok(())
    };
    let slowly = ["rebuild", "--into", into, "--batch", "100"];
    let (printed, ()) = tokio::try_join!(shop.run(&slowly), restart)?;
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert!(printed.err.contains("trying again: "), "{printed:?}");
    let (printed, found) = shop.verify(&["--index", into]).await?;
    assert_eq!((printed.code, found), (Some(0), Vec::new()));
    Ok(())
}

fn second(shop: &Shop) -> String {
    format!("{}-2", shop.world.elasticsearch.index)
}

async fn wait_for_documents(shop: &Shop, index: &str, least: u64) -> Result<()> {
    eventually(&format!("{least} documents"), async || {
        match shop.count(index).await {
            Ok(count) if count >= least => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}
