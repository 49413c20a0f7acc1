//! What can be seen from outside: the view, `/status`, `/metrics`, partitions.

use anyhow::Result;
use sqlx::types::chrono::{DateTime, Utc};

use crate::support::{CREATED, World, eventually, readiness, status};

#[tokio::test]
async fn the_view_tells_when_each_event_was_sent() -> Result<()> {
    let world = World::new().await?;
    world.commit_many(300, 300).await?;
    assert_eq!((world.count("NEW").await?, world.count("SENT").await?), (300, 0));
    let relay = world.relay().await?;
    world.all_sent().await?;
    relay.stop().await?;
    world.commit(1, CREATED).await?;
    assert_eq!((world.count("NEW").await?, world.count("SENT").await?), (1, 300));
    let rows: Vec<(String, Option<DateTime<Utc>>, DateTime<Utc>)> =
        sqlx::query_as("select status, sent_at, created_at from outbox_events")
            .fetch_all(&world.pool)
            .await?;
    for (status, sent_at, created_at) in rows {
        match sent_at {
            // Both are rounded to the second.
            Some(sent_at) => assert!(status == "SENT" && (sent_at - created_at).num_seconds().abs() <= 60),
            None => assert_eq!(status, "NEW"),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_metrics_tell_what_was_done() -> Result<()> {
    let world = World::new().await?;
    let relay = world.relay().await?;
    world.commit_many(250, 250).await?;
    world.all_sent().await?;
    let done = serde_json::json!({
        "state": "active", "backlog": 0, "oldestUnpublishedSeconds": 0.0, "parked": 0, "inFlight": 0, "sent": 250,
        "discarded": 0, "defaultPartitionRows": 0
    });
    eventually("the backlog is empty", async || {
        status(relay.admin).await.is_ok_and(|status| status == done)
    })
    .await?;
    eventually("it is ready", async || {
        readiness(relay.admin)
            .await
            .is_ok_and(|found| found["ready"] == true)
    })
    .await?;
    let metrics = reqwest::get(format!("http://{}/metrics", relay.admin))
        .await?
        .text()
        .await?;
    for line in [
        "mcl_kafka_publish_success_total 250",
        "mcl_kafka_publish_failed_total 0",
        "mcl_outbox_batch_size_sum 250.0",
        "mcl_outbox_backlog_new 0",
        "mcl_outbox_backlog_sent 250",
        "mcl_outbox_backlog_failed 0",
        "commerce_relay_discarded 0",
        "commerce_relay_default_partition_rows 0",
        "commerce_relay_active 1",
        "commerce_relay_publish_latency_seconds_count 250",
    ] {
        assert!(metrics.contains(line), "no {line:?} in\n{metrics}");
    }
    relay.stop().await
}

#[tokio::test]
async fn partitions_are_made_ahead_whatever_is_in_the_default_one() -> Result<()> {
    let world = World::new().await?;
    // The day after tomorrow has no partition, and a row already.
    sqlx::raw_sql(
        "do $$ begin
             execute format('drop table outbox_log_%s', to_char((now() at time zone 'UTC')::date + 2, 'YYYYMMDD'));
         end $$;
         insert into outbox_log (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload,
                                 correlation_id, created_at)
         values (gen_random_uuid(), 'order', '1', 1, 'order.created', '{}', 'c', now() + interval '2 days')",
    )
    .execute(&world.pool)
    .await?;
    let relay = world.relay().await?;
    let ahead = "select to_regclass('outbox_log_' || to_char((now() at time zone 'UTC')::date + 3, 'YYYYMMDD')) is not null";
    eventually("the third day has its partition", async || {
        sqlx::query_scalar::<_, bool>(ahead)
            .fetch_one(&world.pool)
            .await
            .unwrap_or(false)
    })
    .await?;
    world.all_sent().await?;
    assert_eq!(world.check().await?, 0);
    eventually("the status tells of the one without", async || {
        status(relay.admin)
            .await
            .is_ok_and(|status| status["defaultPartitionRows"] == 1 && status["sent"] == 1)
    })
    .await?;
    relay.stop().await
}
