//! Events that Kafka refuses.

use std::collections::HashSet;

use anyhow::Result;
use commerce_core::event::header;
use futures::future::try_join_all;
use pretty_assertions::assert_eq;
use rdkafka::{
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
};
use serde_json::{Value, json};

use crate::support::{Answer, CANCELLED, CREATED, World, eventually, insert, parked, status, too_large};

const MISSING: &str = "order.unheard-of";

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_topic_is_parked_with_those_behind_it_while_others_flow() -> Result<()> {
    let world = World::new().await?;
    let relay = world.relay().await?;
    let bad = world.commit(1, MISSING).await?;
    world.commit(1, CANCELLED).await?;
    for order in 2..20 {
        world.commit(order, CREATED).await?;
    }
    eventually("the bad one is FAILED", async || {
        world.count("FAILED").await.is_ok_and(|failed| failed == 1)
    })
    .await?;
    eventually("the others are SENT", async || {
        world.count("SENT").await.is_ok_and(|sent| sent == 18)
    })
    .await?;
    // One that comes later waits, too.
    let late = world.commit(1, CREATED).await?;
    eventually("it is parked", async || {
        let parked = sqlx::query_scalar::<_, i64>(
            "select count(*) from outbox_parked where outbox_id = $1 and last_error is null",
        );
        parked
            .bind(late)
            .fetch_one(&world.pool)
            .await
            .is_ok_and(|parked| parked == 1)
    })
    .await?;
    assert_eq!(world.count("NEW").await?, 2);
    eventually("the status tells", async || {
        status(relay.admin)
            .await
            .is_ok_and(|status| status["parked"] == 3)
    })
    .await?;
    eventually("it is tried again and again", async || {
        let attempts =
            sqlx::query_scalar::<_, i32>("select max(attempts) from outbox_parked").fetch_one(&world.pool);
        attempts.await.is_ok_and(|attempts| attempts >= 3)
    })
    .await?;
    let keys = world.published().await?;
    assert!(
        keys.iter().all(|message| message.key != "1"),
        "an event overtook a parked one"
    );

    // Somebody gives the bad one up: the rest of the order follows.
    let answer = world
        .parked(&["discard", &bad.to_string(), "--reason", "a typing error"])
        .await?;
    assert_eq!(
        answer.done()?,
        format!("event {bad} is discarded; 2 later events of its aggregate follow\n")
    );
    world.all_sent().await?;
    assert_eq!(world.check().await?, 0);
    assert_eq!(world.count("FAILED").await?, 1, "it stays in the table");
    eventually("the status tells", async || {
        status(relay.admin)
            .await
            .is_ok_and(|status| status["parked"] == 0 && status["discarded"] == 1)
    })
    .await?;
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_is_parked_and_the_parked_survive_a_restart() -> Result<()> {
    let world = World::new().await?;
    let relay = world.relay().await?;
    let mut transaction = world.pool.begin().await?;
    let large = insert(&mut transaction, 1, CREATED, &too_large()).await?;
    insert(&mut transaction, 1, CREATED, "").await?;
    insert(&mut transaction, 2, CREATED, "").await?;
    transaction.commit().await?;
    eventually("the large one is FAILED", async || {
        world.count("FAILED").await.is_ok_and(|failed| failed == 1)
    })
    .await?;
    eventually("the other one is SENT", async || {
        world.count("SENT").await.is_ok_and(|sent| sent == 1)
    })
    .await?;
    relay.stop().await?;

    let relay = world.relay().await?;
    world.commit(1, CREATED).await?;
    eventually("it is parked behind the others", async || {
        sqlx::query_scalar::<_, i64>("select count(*) from outbox_parked")
            .fetch_one(&world.pool)
            .await
            .is_ok_and(|parked| parked == 3)
    })
    .await?;
    // Somebody lets the topic take it, and does not wait until it is tried again.
    let topic = world.kafka.topic(CREATED);
    let more = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("max.message.bytes", "4194304");
    let admin: AdminClient<DefaultClientContext> = world.kafka.client("test").create()?;
    for altered in admin.alter_configs([&more], &AdminOptions::new()).await? {
        altered.map_err(|(_, error)| error)?;
    }
    next_attempt_in_an_hour(&world).await?;
    let answer = world.parked(&["requeue", &large.to_string()]).await?;
    assert_eq!(
        answer.done()?,
        format!("event {large} is tried again at once; 2 events wait behind it\n")
    );
    world.all_sent().await?;
    assert_eq!(world.check().await?, 0);
    let error: String =
        sqlx::query_scalar("select last_error from outbox_events where last_error is not null")
            .fetch_one(&world.pool)
            .await?;
    assert!(error.to_lowercase().contains("too large"), "{error}");
    let published = world.published().await?;
    assert_eq!(
        published
            .iter()
            .filter(|message| message.headers[header::SUBJECT] == "1")
            .count(),
        3
    );
    relay.stop().await
}

/// An event of order 1 that Kafka refuses and two behind it; no relay runs any more.
async fn three_parked(world: &World) -> Result<[i64; 3]> {
    let relay = world.relay().await?;
    let ids = [
        world.commit(1, MISSING).await?,
        world.commit(1, CREATED).await?,
        world.commit(1, CANCELLED).await?,
    ];
    let parked = "select count(*) = 3 and bool_or(attempts > 0) from outbox_parked";
    eventually("three are parked", async || {
        sqlx::query_scalar::<_, bool>(parked)
            .fetch_one(&world.pool)
            .await
            .unwrap_or(false)
    })
    .await?;
    relay.stop().await?;
    Ok(ids)
}

async fn next_attempt_in_an_hour(world: &World) -> Result<()> {
    sqlx::query(
        "update outbox_parked set next_attempt_at = now() + interval '1 hour' where last_error is not null",
    )
    .execute(&world.pool)
    .await?;
    Ok(())
}

async fn attempts(world: &World, id: i64) -> Result<i32> {
    let attempts = sqlx::query_scalar("select attempts from outbox_parked where outbox_id = $1").bind(id);
    Ok(attempts.fetch_one(&world.pool).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_parked_the_commands_say_so() -> Result<()> {
    let world = World::new().await?;
    assert_eq!(world.parked(&["list"]).await?.done()?, "no event is parked\n");
    assert_eq!(
        world.parked(&["list", "--all"]).await?.done()?,
        "no event is parked\n"
    );
    assert_eq!(world.parked(&["list", "-o", "json"]).await?.done()?, "[]\n");
    assert_eq!(
        world.parked(&["requeue", "--all"]).await?.done()?,
        "Kafka has refused no event that is still parked\n"
    );
    assert_eq!(
        world.parked(&["show", "7"]).await?.refused()?,
        "event 7 is not parked"
    );
    assert_eq!(
        world.parked(&["requeue", "7", "8"]).await?.refused()?,
        "event 7 is not parked; event 8 is not parked"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_in_one_line() -> Result<()> {
    let missing = parked(&["list"], &[]).await?.refused()?;
    assert!(
        missing.starts_with(
            "the configuration is not usable: neither DATABASE_URL nor DATABASE_URL_FILE is set"
        ),
        "{missing}"
    );
    let nothing = parked(&["requeue"], &[]).await?;
    assert_eq!(nothing.status.code(), Some(2));
    assert!(nothing.error.contains("--all"), "{}", nothing.error);
    let nowhere = "postgres://somebody:hunter2@127.0.0.1:1/commerce";
    let away = parked(&["list"], &[("DATABASE_URL", nowhere)]).await?.refused()?;
    assert!(
        away.starts_with("connecting to PostgreSQL: ") && !away.contains("hunter2"),
        "{away}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_events_are_listed_and_shown_without_harm_to_the_terminal() -> Result<()> {
    let world = World::new().await?;
    let [bad, second, third] = three_parked(&world).await?;
    let hostile = "\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}";
    sqlx::query("update outbox_parked set last_error = $1 where outbox_id = $2")
        .bind(hostile)
        .bind(bad)
        .execute(&world.pool)
        .await?;
    sqlx::query(
        "update outbox_log set payload = jsonb_build_object('note', $1, 'number', 1e40), correlation_id = $1",
    )
    .bind(hostile)
    .execute(&world.pool)
    .await?;

    let list = world.parked(&["list"]).await?.done()?;
    let lines: Vec<_> = list.lines().collect();
    assert_eq!(lines.len(), 2, "{list}");
    let cells: Vec<_> = lines[1]
        .split("  ")
        .filter(|cell| !cell.is_empty())
        .map(str::trim)
        .collect();
    let tried = attempts(&world, bad).await?.to_string();
    assert_eq!(
        cells[..6],
        [&*bad.to_string(), "refused", "order 1", MISSING, &tried, "2"]
    );
    assert_eq!(cells[8], r"\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}");

    let all = world.parked(&["list", "--all"]).await?.done()?;
    assert_eq!(all.lines().count(), 4, "{all}");
    assert!(all.contains(&format!("waits behind {bad}")), "{all}");
    let two = world.parked(&["list", "--all", "--limit", "2"]).await?.done()?;
    assert_eq!(two.lines().last(), Some("2 of 3 are shown: --limit shows more"));

    let events: Value = serde_json::from_str(&world.parked(&["list", "--all", "-o", "json"]).await?.done()?)?;
    let told = |name: &str| -> Vec<Value> {
        let events = events.as_array().into_iter().flatten();
        events.map(|event| event[name].clone()).collect()
    };
    assert_eq!(told("outboxId"), [json!(bad), json!(second), json!(third)]);
    assert_eq!(told("state"), ["refused", "waiting", "waiting"]);
    assert_eq!(told("waitsBehind"), [Value::Null, json!(bad), json!(bad)]);
    assert_eq!(told("behind"), [2, 1, 0]);
    assert_eq!(told("lastError"), [json!(hostile), Value::Null, Value::Null]);

    let shown = world.parked(&["show", &bad.to_string()]).await?.done()?;
    for part in [
        "state           refused\n",
        "behind it       2 events\n",
        r"correlation id  \u{1b}]0;owned",
        "  \"traceparent\": \"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\"\n",
        "\"number\": 10000000000000000000000000000000000000000\n",
    ] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    let json = world
        .parked(&["show", &second.to_string(), "-o", "json"])
        .await?
        .done()?;
    for printed in [&list, &all, &shown, &json] {
        let strange = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!printed.contains(strange), "{printed:?}");
    }
    let event: Value = serde_json::from_str(&json)?;
    assert_eq!(
        (&event["payload"]["note"], &event["waitsBehind"]),
        (&json!(hostile), &json!(bad))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requeued_event_is_tried_at_once_even_where_nothing_else_happens() -> Result<()> {
    let world = World::new().await?;
    let [bad, second, _] = three_parked(&world).await?;
    next_attempt_in_an_hour(&world).await?;
    let waits =
        format!("event {second} is tried when event {bad}, which it waits behind, is sent or discarded\n");
    assert_eq!(
        world.parked(&["requeue", &second.to_string()]).await?.done()?,
        format!("{waits}no relay is active: it takes effect when one is\n")
    );
    let relay = world.relay().await?;
    relay.active().await?;
    for arguments in [["requeue", &bad.to_string()], ["requeue", "--all"]] {
        let before = attempts(&world, bad).await?;
        next_attempt_in_an_hour(&world).await?;
        world.parked(&arguments).await?.done()?;
        eventually("it is tried", async || {
            attempts(&world, bad).await.is_ok_and(|now| now > before)
        })
        .await?;
    }
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn discarding_is_final_and_only_one_can_do_it() -> Result<()> {
    let world = World::new().await?;
    let [bad, second, third] = three_parked(&world).await?.map(|id| id.to_string());
    let relay = world.relay().await?;
    relay.active().await?;
    let discard = |id: &str| {
        let (world, id) = (&world, id.to_owned());
        async move { world.parked(&["discard", &id, "--reason", "a\u{1b} test"]).await }
    };
    assert_eq!(
        world.parked(&["discard", &bad]).await?.output,
        "",
        "without a reason"
    );
    // One that waits is passed over later.
    let passed_over = format!("passed over when event {bad}, which it waits behind, is sent or discarded");
    assert_eq!(
        discard(&second).await?.done()?,
        format!("event {second} is discarded, and {passed_over}\n")
    );
    let answers = try_join_all((0..5).map(|_| discard(&bad))).await?;
    let won = answers.iter().filter(|answer| answer.error.is_empty()).count();
    assert_eq!(won, 1);
    let lost = answers.into_iter().find(|answer| !answer.error.is_empty());
    let lost = lost.map(Answer::refused).transpose()?.unwrap_or_default();
    assert!(
        lost.starts_with(&format!("event {bad} was discarded at ")) && lost.ends_with(r": a\u{1b} test"),
        "{lost}"
    );
    world.all_sent().await?;
    relay.stop().await?;
    let sent = world.parked(&["requeue", &third, &bad]).await?.refused()?;
    assert!(
        sent.starts_with(&format!("event {third} was sent at "))
            && sent.contains(&format!("; event {bad} was discarded at ")),
        "{sent}"
    );
    let shown = world.parked(&["show", &second]).await?.done()?;
    assert!(shown.contains("state           discarded\n"), "{shown}");
    assert!(shown.contains("reason          a\\u{1b} test\n"), "{shown}");
    let all = world.parked(&["list", "--all"]).await?.done()?;
    assert_eq!(all.matches(" discarded ").count(), 2, "{all}");
    assert_eq!(world.parked(&["list"]).await?.done()?, "no event is parked\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_event_is_not_published_by_a_relay_that_reads_it_again() -> Result<()> {
    let world = World::new().await?;
    let [bad, _, third] = three_parked(&world).await?;
    world
        .parked(&[
            "discard",
            &bad.to_string(),
            &third.to_string(),
            "--reason",
            "a test",
        ])
        .await?
        .done()?;
    // Kafka would take it now.
    sqlx::query("update outbox_log set event_type = $1")
        .bind(CREATED)
        .execute(&world.pool)
        .await?;
    let discarded: HashSet<String> =
        sqlx::query_scalar("select event_id::text from outbox_events where status = 'FAILED'")
            .fetch_all(&world.pool)
            .await?
            .into_iter()
            .collect();
    assert_eq!(discarded.len(), 2);
    // The relay begins from far before it, as after a crash: while another event of its order is parked, and while none
    // is.
    for _ in 0..2 {
        sqlx::query("update relay_checkpoint set snapshot = '1:1:', window_snapshot = null, position = 0")
            .execute(&world.pool)
            .await?;
        world.commit(2, CREATED).await?;
        let relay = world.relay().await?;
        world.all_sent().await?;
        relay.stop().await?;
        for message in world.published().await? {
            assert!(!discarded.contains(&message.headers[header::ID]));
        }
        assert_eq!(world.count("FAILED").await?, 2);
    }
    world.check().await?;
    Ok(())
}
