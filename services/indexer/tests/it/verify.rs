//! `indexer verify`: it finds what is wrong, no more and no less, and mends it.

use anyhow::{Context as _, Result};
use commerce_core::event::OrderEvent;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    shop::{Shop, run},
    world::World,
};

/// Deletions are forgotten soon.
async fn shop() -> Result<Shop> {
    let world = World::empty().await?;
    world.create_topics().await?;
    world
        .create_index_with(|spec| {
            spec.settings.insert("gc_deletes".into(), json!("1s"));
        })
        .await?;
    Shop::of(world).await
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = expected
        .iter()
        .map(|(id, kind)| ((*id).to_owned(), (*kind).to_owned()))
        .collect();
    pairs.sort();
    pairs
}

/// Makes documents differ in all ways there are; returns how.
async fn spoil(shop: &Shop) -> Result<Vec<(&'static str, &'static str)>> {
    let document = async |id: &str| shop.world.document(id).await?.context("a document");
    let with = |mut document: Value, field: &str, value: Value| {
        document[field] = value;
        document
    };
    shop.ask("DELETE", "_doc/17", None).await?;
    // The versions of these stay as the indexer wrote them.
    let same = "version=1&version_type=external_gte";
    let quantity = with(document("19").await?, "quantity", 99.into());
    shop.write("19", &quantity, same).await?;
    let user = with(document("6001").await?, "userId", "mallory".into());
    shop.write("6001", &user, same).await?;
    let mut time = document("6002").await?;
    time["createdAt"] = json!("2026-01-01T00:00:00Z");
    shop.write("6002", &time, same).await?;
    shop.write("6004", &json!({"orderId": "6004"}), same).await?;
    let moved = with(document("6005").await?, "orderId", "9".into());
    shop.write("6005", &moved, same).await?;
    // Those of these count on.
    let other = with(document("20").await?, "skuId", 99.into());
    shop.write("20", &other, "").await?;
    shop.write("22", &document("22").await?, "version=7&version_type=external")
        .await?;
    let ahead = with(document("23").await?, "version", 5.into());
    shop.write("23", &ahead, "version=5&version_type=external")
        .await?;
    // A change whose event never came.
    shop.cancel(&[25]).await?;
    sqlx::query("update orders set updated_at = created_at where order_id = 25")
        .execute(&shop.pool)
        .await?;
    // No such orders: deleted, not there yet, no ids at all.
    sqlx::query("delete from orders where order_id in (7000, 12000)")
        .execute(&shop.pool)
        .await?;
    for id in ["12001", "990000", "abc", "017", "x%1B%5B31m"] {
        shop.write(id, &with(document("1").await?, "orderId", id.into()), "")
            .await?;
    }
    shop.write("no-order-id", &json!({"quantity": 1}), "").await?;

    Ok(vec![
        ("17", "missing"),
        ("19", "differing"),
        ("6001", "differing"),
        ("6002", "differing"),
        ("6004", "differing"),
        ("6005", "differing"),
        ("20", "differing"),
        ("22", "misversioned"),
        ("23", "ahead"),
        ("25", "stale"),
        ("7000", "ghost"),
        ("12000", "ghost"),
        ("12001", "ghost"),
        ("990000", "ghost"),
        ("abc", "ghost"),
        ("017", "ghost"),
        ("x\u{1b}[31m", "ghost"),
        ("no-order-id", "ghost"),
    ])
}

#[tokio::test]
async fn what_was_changed_past_the_indexer_is_found_exactly_and_mended() -> Result<()> {
    let shop = shop().await?;
    shop.filled(12_000).await?;
    let printed = shop.run(&["verify"]).await?;
    assert_eq!(
        (printed.code, printed.out.as_str()),
        (
            Some(0),
            "1 to 12000: 12000 orders, 12000 documents; no differences\n"
        ),
        "{}",
        printed.err
    );

    let expected = spoil(&shop).await?;
    let (printed, found) = shop.verify(&[]).await?;
    assert_eq!((printed.code, found), (Some(3), pairs(&expected)));
    let (printed, found) = shop.verify(&["--from", "5001", "--to", "9999"]).await?;
    let middle = expected.iter().copied().filter(|(id, _)| {
        let number = if id.starts_with('0') {
            None
        } else {
            id.parse().ok()
        };
        number.is_some_and(|id: u32| (5001..=9999).contains(&id))
    });
    assert_eq!(
        (printed.code, found),
        (Some(3), pairs(&middle.collect::<Vec<_>>()))
    );
    let printed = shop.run(&["verify", "--grace", "0s"]).await?;
    assert!(!printed.out.contains('\u{1b}'), "{:?}", printed.out);
    for line in [
        "order 17 missing: the index does not have version 1\n",
        "order 19 differing: version 1 has another quantity\n",
        "order 25 stale: the index has version 1, PostgreSQL 2\n",
    ] {
        assert!(printed.out.contains(line), "{}", printed.out);
    }

    let (printed, found) = shop.verify(&["--repair"]).await?;
    assert_eq!(
        (printed.code, found),
        (Some(0), pairs(&expected)),
        "{}",
        printed.err
    );
    let (printed, found) = shop.verify(&[]).await?;
    assert_eq!((printed.code, found), (Some(0), Vec::new()));
    let document = async |id: &str| shop.world.document(id).await?.context("a document");
    assert_eq!(document("19").await?["quantity"], 10);
    assert_eq!(document("20").await?["topic"], Value::Null);

    // What was mended takes events again.
    let events = shop.cancel(&[17, 19, 20, 22, 23]).await?;
    shop.index(&events).await?;
    let (printed, found) = shop.verify(&[]).await?;
    assert_eq!((printed.code, found), (Some(0), Vec::new()));
    Ok(())
}

#[tokio::test]
async fn what_somebody_has_only_just_deleted_is_written_again() -> Result<()> {
    let shop = shop().await?;
    shop.filled(3).await?;
    shop.ask("DELETE", "_doc/2", None).await?;
    let (printed, found) = shop.verify(&["--repair"]).await?;
    assert_eq!(
        (printed.code, found),
        (Some(0), pairs(&[("2", "missing")])),
        "{}",
        printed.err
    );
    assert_eq!(shop.world.searchable().await?, 3);
    Ok(())
}

#[tokio::test]
async fn a_whole_index_can_be_mended() -> Result<()> {
    let shop = shop().await?;
    shop.place(11_000).await?;
    let (printed, found) = shop.verify(&["--repair"]).await?;
    assert_eq!((printed.code, found.len()), (Some(0), 11_000), "{}", printed.err);
    // Now the orders are lost, as if an older backup was restored.
    sqlx::query("delete from orders where order_id > 400")
        .execute(&shop.pool)
        .await?;
    let (printed, found) = shop.verify(&["--repair"]).await?;
    assert_eq!((printed.code, found.len()), (Some(0), 10_600), "{}", printed.err);
    let (printed, found) = shop.verify(&[]).await?;
    assert_eq!((printed.code, found.len()), (Some(0), 0));
    assert_eq!(shop.world.searchable().await?, 400);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_pipeline_has_no_differences_and_is_not_harmed_by_repairs() -> Result<()> {
    let shop = shop().await?;
    shop.filled(500).await?;
    let indexer = shop.world.start().await?;
    let enough = CancellationToken::new();
    let orders = async {
        while !enough.is_cancelled() {
            let placed = shop.place(200).await?;
            shop.world.publish(&placed).await?;
            let ids: Vec<i64> = placed
                .iter()
                .step_by(2)
                .filter_map(|event: &OrderEvent| event.order_id.parse().ok())
                .collect();
            let cancelled = shop.cancel(&ids).await?;
            shop.world.publish(&cancelled).await?;
        }
        anyhow::Ok(())
    };
    let checks = async {
        for arguments in [&["verify"][..], &["verify", "--repair"], &["verify"]] {
            let printed = shop.run(arguments).await?;
            assert!(
                printed.code == Some(0) && printed.out.contains("no differences"),
                "{printed:?}"
            );
        }
        enough.cancel();
        anyhow::Ok(())
    };
    tokio::try_join!(orders, checks)?;
    shop.world.wait_until_committed().await?;
    indexer.stop().await?;
    let (printed, found) = shop.verify(&[]).await?;
    assert_eq!((printed.code, found), (Some(0), Vec::new()));
    Ok(())
}

#[tokio::test]
async fn an_order_on_its_way_is_waited_for() -> Result<()> {
    let shop = shop().await?;
    let placed = shop.place(10).await?;
    sqlx::query("update orders set updated_at = now()")
        .execute(&shop.pool)
        .await?;
    let late = async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        shop.index(&placed).await
    };
    let (printed, ()) = tokio::try_join!(shop.run(&["verify", "--grace", "20s"]), late)?;
    assert!(
        printed.code == Some(0) && printed.out.contains("no differences"),
        "{printed:?}"
    );
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_the_call_or_a_store_is_told_in_one_line() -> Result<()> {
    let shop = Shop::of(World::empty().await?).await?;
    let check = async |arguments: &[&str], variable: (&'static str, &str), code: i32, text: &str| {
        let mut environment = shop.environment();
        environment.retain(|(name, _)| *name != variable.0);
        environment.push((variable.0, variable.1.to_owned()));
        let printed = run(arguments, environment).await?;
        assert_eq!(printed.code, Some(code), "{printed:?}");
        assert!(printed.err.contains(text), "{text:?} is not in {:?}", printed.err);
        assert!(code == 2 || printed.err.lines().count() == 1, "{:?}", printed.err);
        anyhow::Ok(())
    };
    let none = ("UNUSED", "");
    check(&["verify"], none, 1, "no such index").await?;
    check(&["verify", "--from", "0"], none, 2, "--from").await?;
    check(
        &["verify", "--from", "9", "--to", "8"],
        none,
        1,
        "--to is before --from",
    )
    .await?;
    check(&["verify", "--index", "../x"], none, 2, "lowercase").await?;
    check(&["verify", "--grace", "soon"], none, 2, "--grace").await?;
    check(&["verify", "--grace", "100000000000years"], none, 2, "--grace").await?;
    check(&["verify", "--grace", "2h"], none, 2, "1h at most").await?;
    check(&["rebuild"], none, 2, "--into").await?;
    check(
        &["rebuild", "--into", &shop.world.elasticsearch.index],
        none,
        1,
        "is the alias",
    )
    .await?;
    check(&["rebuild", "--into", "x-2"], none, 1, "index template").await?;
    check(&["verify"], ("DATABASE_URL", ""), 1, "DATABASE_URL").await?;
    let away = ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/x");
    check(&["verify"], away, 1, "connecting to PostgreSQL").await?;
    check(&["rebuild", "--into", "x-2"], away, 1, "connecting to PostgreSQL").await?;
    let away = ("ELASTICSEARCH_URL", "http://127.0.0.1:1");
    check(&["verify"], away, 1, "refused").await?;
    check(&["rebuild", "--into", "x-2"], away, 1, "refused").await?;
    Ok(())
}
