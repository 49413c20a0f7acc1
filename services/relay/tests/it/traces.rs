//! Publishing an event is a span of the trace that the event belongs to, if that is sampled.

use anyhow::{Context as _, Result};
use commerce_core::{config::Env, event::header, testing::Collector, trace::TraceConfig};
use pretty_assertions::assert_eq;

use crate::support::{CREATED, World};

#[tokio::test]
async fn a_traced_events_message_continues_from_the_relays_span() -> Result<()> {
    const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let (world, collector) = (World::new().await?, Collector::start().await?);
    world.commit(1, CREATED).await?;
    world.commit(2, CREATED).await?;
    sqlx::query(
        "update outbox_log set headers = jsonb_build_object('traceparent', $1) where aggregate_id = '2'",
    )
    .bind(UNSAMPLED)
    .execute(&world.pool)
    .await?;
    let mut config = world.config()?;
    let mut env = Env::from_pairs([("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())]);
    config.traces = TraceConfig::from_env(&mut env, "commerce-relay").context("the configuration")?;
    let relay = world.relay_with(config).await?;
    world.all_sent().await?;
    relay.stop().await?;

    let spans = collector.spans();
    let [span] = spans.as_slice() else {
        panic!("not one span: {spans:?}")
    };
    assert_eq!(span.name, format!("send {}", world.kafka.topic(CREATED)));
    assert_eq!(span.trace, "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(span.parent, "00f067aa0ba902b7");
    for message in world.published().await? {
        let traceparent = message.headers[header::TRACEPARENT].as_str();
        let own = format!("00-{}-{}-01", span.trace, span.id);
        assert_eq!(
            traceparent,
            if message.key == "1" {
                own.as_str()
            } else {
                UNSAMPLED
            }
        );
    }
    Ok(())
}
