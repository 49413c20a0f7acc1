//! A request is one span of its caller's trace, and what comes of it continues from there.

use commerce_core::{
    config::Env,
    testing::{Collected, Collector},
    trace::TraceConfig,
};
use pretty_assertions::assert_eq;
use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;

use crate::support::{Api, catalogue, closed_port, config};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

async fn traced(variables: &[(&str, &str)]) -> (Api, PgPool) {
    let database = catalogue().await;
    let mut config = config(&database).await;
    let mut env = Env::from_pairs(variables.iter().copied());
    config.traces = TraceConfig::from_env(&mut env, "commerce-api").unwrap();
    (Api::start(config).await, database.pool())
}

async fn order(api: &Api, traceparent: Option<&str>) {
    let headers: Vec<_> = traceparent
        .into_iter()
        .map(|value| ("traceparent", value))
        .collect();
    let answer = api
        .order_with(&json!({"skuId": 1, "quantity": 1}), &headers)
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// The trace contexts of the events, in the order of the outbox.
async fn of_events(pool: &PgPool) -> Vec<Option<String>> {
    sqlx::query_scalar("select headers ->> 'traceparent' from outbox_log order by outbox_id")
        .fetch_all(pool)
        .await
        .unwrap()
}

fn traceparent(span: &Collected) -> String {
    format!("00-{}-{}-01", span.trace, span.id)
}

#[tokio::test]
async fn an_events_trace_goes_on_from_the_requests_span() {
    let collector = Collector::start().await.unwrap();
    let (api, pool) = traced(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())]).await;
    order(&api, Some(&format!("00-{TRACE}-{CALLER}-01"))).await;
    order(&api, None).await;
    api.send(Method::GET, "/orders/0", &[], "").await;
    api.stop().await;

    let spans = collector.spans();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["POST /orders", "POST /orders", "GET /orders/{id}"]);
    assert_eq!(
        (spans[0].trace.as_str(), spans[0].parent.as_str()),
        (TRACE, CALLER)
    );
    assert!(spans[1].trace != TRACE && spans[1].parent.is_empty(), "{spans:?}");
    assert!(
        spans
            .iter()
            .all(|span| span.service == "commerce-api" && !span.failed)
    );
    let expected = [Some(traceparent(&spans[0])), Some(traceparent(&spans[1]))];
    assert_eq!(of_events(&pool).await, expected);
}

#[tokio::test]
async fn a_trace_that_is_not_sampled_is_handed_on_as_it_came() {
    let collector = Collector::start().await.unwrap();
    let endpoint = collector.endpoint();
    let unsampled = format!("00-{TRACE}-{CALLER}-00");
    let sampled = format!("00-{TRACE}-{CALLER}-01");
    let (api, pool) = traced(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
    ])
    .await;
    order(&api, Some(&unsampled)).await;
    order(&api, None).await;
    api.stop().await;
    assert_eq!(of_events(&pool).await, [Some(unsampled), None]);
    // The same where nothing is traced at all.
    let (api, pool) = traced(&[]).await;
    order(&api, Some(&sampled)).await;
    api.stop().await;
    assert_eq!(of_events(&pool).await, [Some(sampled)]);
    assert_eq!(collector.spans(), []);
}

#[tokio::test]
async fn a_collector_that_is_away_costs_nothing_but_the_traces() {
    let endpoint = format!("http://{}", closed_port().await);
    let (api, pool) = traced(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]).await;
    for _ in 0..20 {
        order(&api, None).await;
    }
    api.stop().await;
    assert_eq!(of_events(&pool).await.len(), 20);
}
