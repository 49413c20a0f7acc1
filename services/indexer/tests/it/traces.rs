//! Bringing an event into the index is a span of the trace that the event belongs to, if that is sampled.

use anyhow::Result;
use commerce_core::testing::Collector;
use pretty_assertions::assert_eq;

use crate::{
    events::created,
    world::{CREATED, World},
};

#[tokio::test]
async fn a_traced_event_ends_its_trace_when_its_order_can_be_found() -> Result<()> {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";
    let (world, collector) = (World::new().await?, Collector::start().await?);
    world
        .publish_traced(&created(1), &format!("00-{TRACE}-{PARENT}-01"))
        .await?;
    world
        .publish_traced(&created(2), &format!("00-{TRACE}-{PARENT}-00"))
        .await?;
    world.publish(&[created(3)]).await?;
    let mut broken = created(4);
    broken.version = 0;
    world
        .publish_traced(&broken, &format!("00-{TRACE}-{PARENT}-01"))
        .await?;
    let endpoint = collector.endpoint();
    let indexer = world
        .start_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)])
        .await?;
    world.wait_until_committed().await?;
    indexer.stop().await?;

    let mut spans = collector.spans();
    spans.sort_by_key(|span| span.failed);
    let [good, bad] = spans.as_slice() else {
        panic!("not two spans: {spans:?}")
    };
    assert!(!good.failed && bad.failed, "{spans:?}");
    for span in [good, bad] {
        assert_eq!(span.name, format!("process {}", world.kafka.topic(CREATED)));
        assert_eq!((span.trace.as_str(), span.parent.as_str()), (TRACE, PARENT));
    }
    Ok(())
}
