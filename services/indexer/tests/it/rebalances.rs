//! Indexers come and go while events arrive.

use anyhow::Result;

use crate::{
    events::{cancelled, created, expected},
    world::World,
};

#[tokio::test]
async fn indexers_that_share_the_partitions_lose_nothing_when_they_come_and_go() -> Result<()> {
    let world = World::new().await?;
    let events: Vec<_> = (1..=6000).map(created).chain((1..=3000).map(cancelled)).collect();
    let small = [("INDEXER_BULK_MAX_DOCUMENTS", "20")];
    let load = async {
        for chunk in events.chunks(300) {
            world.publish(chunk).await?;
        }
        anyhow::Ok(())
    };
    let changes = async {
        let first = world.start_with(&small).await?;
        first.wait_until_assigned().await?;
        let second = world.start_with(&small).await?;
        let partitions = second.wait_until_assigned().await?;
        assert_eq!(partitions, 3, "the second one takes half of the six partitions");
        first.stop().await?;
        let third = world.start_with(&small).await?;
        third.wait_until_assigned().await?;
        second.crash().await;
        anyhow::Ok(third)
    };
    let ((), third) = tokio::try_join!(load, changes)?;
    world.wait_until_committed().await?;
    world.assert_holds(&expected(&events)).await?;
    assert_eq!(world.letters().await?.len(), 0);
    third.stop().await
}

#[tokio::test]
async fn partitions_that_come_back_to_an_indexer_are_read_on() -> Result<()> {
    let world = World::new().await?;
    let first = world.start().await?;
    first.wait_until_assigned().await?;
    let second = world.start().await?;
    second.wait_until_assigned().await?;
    second.stop().await?;
    let events: Vec<_> = (1..=200).map(created).chain((1..=200).map(cancelled)).collect();
    world.publish(&events).await?;
    world.wait_until_committed().await?;
    world.assert_holds(&expected(&events)).await?;
    first.stop().await
}
