//! Written, searchable, invalidated: in this order, soon, and told.

use anyhow::Result;
use commerce_core::search_cache::generation_key;
use redis::AsyncCommands as _;
use serde_json::json;

use crate::{events::created, running::eventually, world::World};

#[tokio::test]
async fn cached_answers_are_invalidated_only_when_searches_find_the_order() -> Result<()> {
    let world = World::new().await?;
    let indexer = world.start().await?;
    let mut redis = world.redis.client.get_multiplexed_async_connection().await?;
    let all = generation_key(&world.redis.key_prefix, None);
    for id in 1..=20 {
        let before: Option<String> = redis.get(&all).await?;
        let event = created(id);
        world.publish(std::slice::from_ref(&event)).await?;
        let key = generation_key(&world.redis.key_prefix, Some(&event.user_id));
        let generation = eventually("the user's generation", async || {
            let found: redis::RedisResult<Option<String>> = redis.clone().get(&key).await;
            found
                .map_err(|error| error.to_string())?
                .ok_or_else(|| format!("no {key}"))
        })
        .await?;
        assert_eq!(
            world
                .searchable_of(json!({"term": {"userId": event.user_id}}))
                .await?,
            1,
            "order {id}"
        );
        let after: Option<String> = redis.get(&all).await?;
        assert_eq!(after, Some(generation));
        assert_ne!(after, before);
    }
    indexer.stop().await
}

#[tokio::test]
async fn metrics_and_status_tell_freshness_lag_and_outcomes() -> Result<()> {
    let world = World::new().await?;
    let indexer = world.start().await?;
    indexer.wait_until_ready().await?;
    assert_eq!(indexer.wait_until_assigned().await?, 6);
    world.publish(&(1..=50).map(created).collect::<Vec<_>>()).await?;
    world.wait_until_searchable(50).await?;

    let status = eventually("a status about all orders", async || {
        let status = indexer.status().await.map_err(|error| error.to_string())?;
        if status["freshness"]["orders"] == 50 && status["lag"] == 0 {
            Ok(status)
        } else {
            Err(status.to_string())
        }
    })
    .await?;
    assert!(status["freshness"]["p50Seconds"].as_f64() <= status["freshness"]["p99Seconds"].as_f64());
    assert_eq!(
        indexer
            .metric("commerce_indexer_events_total{outcome=\"indexed\"}")
            .await?,
        50
    );
    assert_eq!(
        indexer.metric("commerce_order_freshness_seconds_count").await?,
        50
    );
    assert!(
        indexer
            .metric("commerce_indexer_bulk_duration_seconds_count")
            .await?
            >= 1
    );
    let topic = world.kafka.topic("order.created");
    assert_eq!(
        indexer
            .metric(&format!(
                "commerce_indexer_consumer_lag{{topic=\"{topic}\",partition=\"0\"}}"
            ))
            .await?,
        0
    );
    indexer.stop().await
}
