//! Stores go away and come back: the indexer waits, says so, and loses nothing.

use std::time::Duration;

use anyhow::Result;
use commerce_core::{
    elasticsearch::body,
    index,
    search_cache::generation_key,
    testing::{Elasticsearch, Kafka, Redis},
};
use elasticsearch::indices::{IndicesDeleteAliasParts, IndicesPutAliasParts, IndicesPutSettingsParts};
use redis::AsyncCommands as _;
use serde_json::json;
use tokio::time::sleep;

use crate::{
    events::{cancelled, created, expected},
    running::eventually,
    world::World,
};

#[tokio::test]
async fn topics_and_alias_may_come_later() -> Result<()> {
    let world = World::empty().await?;
    let indexer = world.start().await?;
    indexer
        .wait_until_failing("elasticsearch", "does not exist")
        .await?;
    assert_eq!(indexer.readiness().await?.0, 503);
    world.create_index().await?;
    indexer.wait_until_failing("kafka", "order.created").await?;
    world.create_topics().await?;
    indexer.wait_until_ready().await?;
    world.publish(&[created(1)]).await?;
    world.wait_until_searchable(1).await?;
    indexer.stop().await
}

#[tokio::test]
async fn an_elasticsearch_that_is_killed_in_mid_stream_loses_nothing() -> Result<()> {
    let store = Elasticsearch::start().await?;
    let world = World::with_own_elasticsearch(&store).await?;
    let events: Vec<_> = (1..=5000).map(created).chain((1..=2000).map(cancelled)).collect();
    let small = [("INDEXER_BULK_MAX_DOCUMENTS", "50")];
    store.kill()?;
    let indexer = world.start_with(&small).await?;
    world.publish(&events[..2500]).await?;
    indexer
        .wait_until_failing("elasticsearch", "Elasticsearch")
        .await?;
    assert_eq!(indexer.readiness().await?.0, 503);
    store.restart().await?;
    eventually("the first documents", async || match world.searchable().await {
        Ok(count) if count > 0 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;

    store.kill()?;
    world.publish(&events[2500..]).await?;
    indexer
        .wait_until_failing("elasticsearch", "tcp connect error")
        .await?;
    assert_eq!(indexer.readiness().await?.0, 200, "it was ready once");
    assert!(
        world.lag()? >= 4500,
        "what is not in the index must not be committed"
    );
    store.restart().await?;
    world.wait_until_committed().await?;
    world.assert_holds(&expected(&events)).await?;
    assert_eq!(world.letters().await?.len(), 0);
    assert!(indexer.is_running());
    indexer.stop().await
}

#[tokio::test]
async fn an_elasticsearch_that_is_silent_for_a_while_loses_nothing() -> Result<()> {
    let store = Elasticsearch::start().await?;
    let world = World::with_own_elasticsearch(&store).await?;
    let indexer = world.start_with(&[("INDEXER_BULK_MAX_DOCUMENTS", "50")]).await?;
    let events: Vec<_> = (1..=3000).map(created).collect();
    world.publish(&events[..1000]).await?;
    world.wait_until_searchable(1000).await?;
    store.pause()?;
    world.publish(&events[1000..]).await?;
    eventually("lag while nothing answers", async || {
        let status = indexer.status().await.map_err(|error| error.to_string())?;
        if status["lag"] == 2000 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
    .await?;
    store.resume()?;
    world.wait_until_committed().await?;
    world.assert_holds(&expected(&events)).await?;
    assert_eq!(world.letters().await?.len(), 0);
    indexer.stop().await
}

#[tokio::test]
async fn a_read_only_index_is_waited_for() -> Result<()> {
    let world = World::new().await?;
    let indexer = world.start().await?;
    world.publish(&[created(1)]).await?;
    world.wait_until_searchable(1).await?;
    block(&world, true).await?;
    let events: Vec<_> = (1..=200).map(created).collect();
    world.publish(&events).await?;
    indexer
        .wait_until_failing("elasticsearch", "cluster_block_exception")
        .await?;
    block(&world, false).await?;
    world.wait_until_committed().await?;
    world.assert_holds(&expected(&events)).await?;
    assert_eq!(world.letters().await?.len(), 0);
    indexer.stop().await
}

async fn block(world: &World, blocked: bool) -> Result<()> {
    let index = [world.elasticsearch.index.as_str()];
    let indices = world.client.indices();
    let put = indices
        .put_settings(IndicesPutSettingsParts::Index(&index))
        .body(json!({"index.blocks.write": blocked}));
    body("block writes", put.send().await).await?;
    Ok(())
}

#[tokio::test]
async fn an_alias_that_is_gone_is_waited_for_and_no_index_comes_about_in_its_place() -> Result<()> {
    let world = World::new().await?;
    let indexer = world.start().await?;
    world.publish(&[created(1)]).await?;
    world.wait_until_searchable(1).await?;
    let alias = world.elasticsearch.index.as_str();
    let Some(index) = index::active_index(&world.client, alias).await? else {
        anyhow::bail!("no index")
    };
    let indices = world.client.indices();
    let parts = IndicesDeleteAliasParts::IndexName(&[&index], &[alias]);
    body("delete the alias", indices.delete_alias(parts).send().await).await?;
    world.publish(&[created(2)]).await?;
    indexer
        .wait_until_failing("elasticsearch", "is not an alias")
        .await?;
    let parts = IndicesPutAliasParts::IndexName(&[&index], alias);
    body("put the alias", indices.put_alias(parts).send().await).await?;
    world.wait_until_searchable(2).await?;
    assert_eq!(world.letters().await?.len(), 0);
    indexer.stop().await
}

#[tokio::test]
async fn a_kafka_that_is_killed_in_mid_stream_loses_nothing() -> Result<()> {
    let store = Kafka::start().await?;
    let world = World::with_own_kafka(&store).await?;
    let indexer = world.start_with(&[("INDEXER_BULK_MAX_DOCUMENTS", "20")]).await?;
    let events: Vec<_> = (1..=4000).map(created).chain((1..=1000).map(cancelled)).collect();
    world.publish(&events[..2500]).await?;
    store.kill()?;
    indexer.wait_until_failing("kafka", "Kafka").await?;
    store.restart().await?;
    world.publish(&events[2500..]).await?;
    world.wait_until_committed().await?;
    world.assert_holds(&expected(&events)).await?;
    assert_eq!(world.letters().await?.len(), 0);
    assert!(indexer.is_running());
    indexer.stop().await
}

/// A member that is in the middle of a rebalance keeps partitions over an outage of Kafka, and what it commits meanwhile fails.
#[tokio::test]
async fn a_commit_that_fails_is_made_up_for_without_further_events() -> Result<()> {
    /// So often do members hear of a rebalance.
    const HEARTBEAT: Duration = Duration::from_secs(1);
    /// Longer do they not hold back partitions that go to others.
    const REVOKE_BOUND: Duration = Duration::from_secs(5);
    /// The Kafka client gives a commit up after its session timeout, 10 s.
    const GIVEN_UP: Duration = Duration::from_secs(15);
    let store = Kafka::start().await?;
    let world = World::with_own_kafka(&store).await?;
    let indexer = world.start().await?;
    world.publish(&[created(1)]).await?;
    world.wait_until_committed().await?;
    block(&world, true).await?;
    let events: Vec<_> = (2..=200).map(created).chain((2..=200).map(cancelled)).collect();
    world.publish(&events).await?;
    indexer
        .wait_until_failing("elasticsearch", "cluster_block_exception")
        .await?;
    let newcomer = world.start().await?;
    newcomer.wait_until_ready().await?;
    sleep(HEARTBEAT * 2).await;
    store.kill()?;
    sleep(REVOKE_BOUND).await;
    block(&world, false).await?;
    world.wait_until_searchable(200).await?;
    sleep(GIVEN_UP).await;
    store.restart().await?;
    world.wait_until_committed().await?;
    newcomer.stop().await?;
    indexer.stop().await
}

#[tokio::test]
async fn without_redis_orders_are_indexed_and_caches_are_invalidated_when_it_is_back() -> Result<()> {
    let store = Redis::start().await?;
    let world = World::with_own_redis(&store).await?;
    let indexer = world.start().await?;
    indexer.wait_until_ready().await?;
    store.kill()?;
    world.publish(&(1..=300).map(created).collect::<Vec<_>>()).await?;
    world.wait_until_searchable(300).await?;
    world.wait_until_committed().await?;
    indexer.wait_until_failing("redis", "").await?;
    assert_eq!(indexer.readiness().await?.0, 200);
    store.restart().await?;
    eventually("the generations of all users", async || {
        let error = |error: redis::RedisError| error.to_string();
        let mut redis = world
            .redis
            .client
            .get_multiplexed_async_connection()
            .await
            .map_err(error)?;
        let keys: Vec<_> = (1..=300)
            .map(|id| generation_key(&world.redis.key_prefix, Some(&format!("user-{id}"))))
            .collect();
        let found: u64 = redis.exists(keys).await.map_err(error)?;
        if found == 300 {
            Ok(())
        } else {
            Err(format!("{found} generations"))
        }
    })
    .await?;
    indexer.stop().await
}
