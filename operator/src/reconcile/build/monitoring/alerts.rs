//! Alert rules. Each fires for something that a person has to do something about, and says what.

use serde_json::{Value, json};

use super::{
    super::super::{names::Component, validate::Pipeline},
    metric,
};

/// The rules of a pipeline.
#[allow(clippy::too_many_lines, reason = "a table")]
pub fn rules(pipeline: &Pipeline) -> Vec<Value> {
    let api = |name: &str, matchers: &str| metric(pipeline, Component::Api, name, matchers);
    let relay = |name: &str| metric(pipeline, Component::Relay, name, "");
    let indexer = |name: &str, matchers: &str| metric(pipeline, Component::Indexer, name, matchers);
    let objective = pipeline.objective.as_secs_f64();
    let patience = (objective * 10.0).max(30.0);
    let rule = |name: &str,
                severity: &str,
                lasts: &str,
                expression: String,
                summary: &str,
                description: &str| {
        json!({
            "alert": name,
            "expr": expression,
            "for": lasts,
            "labels": { "severity": severity, "namespace": pipeline.namespace, "pipeline": pipeline.name },
            "annotations": { "summary": summary, "description": description },
        })
    };
    let tell = format!(
        "kubectl describe cpl -n {} {} tells more.",
        pipeline.namespace, pipeline.name
    );
    vec![
        rule(
            "CommerceNoActiveRelay",
            "critical",
            "2m",
            format!("(sum({}) or vector(0)) < 1", relay("commerce_relay_active")),
            "No relay publishes, orders wait in the outbox",
            &format!("Orders are taken and can't be found. {tell}"),
        ),
        rule(
            "CommerceRelayBehind",
            "warning",
            "2m",
            format!(
                "max({}) > {patience}",
                relay("commerce_relay_oldest_unpublished_seconds")
            ),
            "Events wait in the outbox",
            &format!(
                "The oldest one has waited for {{{{ $value | humanizeDuration }}}}: is Kafka slow, or is there more than the relay can publish? {tell}"
            ),
        ),
        rule(
            "CommerceEventsParked",
            "warning",
            "1m",
            format!("max({}) > 0", relay("mcl_outbox_backlog_failed")),
            "Kafka refused events",
            &format!(
                "{{{{ $value }}}} events are parked: kubectl exec -n {} deploy/{}-relay -- relay parked list",
                pipeline.namespace, pipeline.name
            ),
        ),
        rule(
            "CommerceIndexerStandsStill",
            "critical",
            "5m",
            format!(
                "sum({}) > 0 and sum(rate({}[5m])) == 0",
                indexer("commerce_indexer_consumer_lag", ""),
                indexer("commerce_indexer_events_total", "")
            ),
            "Events wait in Kafka, and none is indexed",
            &format!("Does Elasticsearch answer, and may it write? {tell}"),
        ),
        rule(
            "CommerceIndexerBehind",
            "warning",
            "10m",
            format!(
                "sum({}) / sum(rate({}[5m])) > {patience}",
                indexer("commerce_indexer_consumer_lag", ""),
                indexer("commerce_indexer_events_total", "")
            ),
            "The indexers do not keep up",
            &format!(
                "What waits in Kafka would take {{{{ $value | humanizeDuration }}}}: give them more replicas, or look at the CPU of Elasticsearch. {tell}"
            ),
        ),
        rule(
            "CommerceDeadLetters",
            "warning",
            "0m",
            format!(
                "sum(increase({}[15m])) > 0",
                indexer("commerce_indexer_events_total", r#"outcome="dead_lettered""#)
            ),
            "Events could not be indexed",
            &format!(
                "They are in the dead-letter topics: kubectl exec -n {} deploy/{}-indexer -- indexer dlq list",
                pipeline.namespace, pipeline.name
            ),
        ),
        rule(
            "CommerceSearchStale",
            "warning",
            "10m",
            format!(
                "histogram_quantile(0.99, sum by (le) (rate({}[5m]))) > {objective}",
                indexer("commerce_order_freshness_seconds_bucket", "")
            ),
            "Orders are found late",
            &format!(
                "One of a hundred takes more than {{{{ $value | humanizeDuration }}}}, and monitoring.freshnessObjective is {objective}s. {tell}"
            ),
        ),
        rule(
            "CommerceApiErrors",
            "critical",
            "5m",
            format!(
                "sum(rate({}[5m])) / sum(rate({}[5m])) > 0.05",
                api("http_request_duration_seconds_count", r#"status=~"5..""#),
                api("http_request_duration_seconds_count", "")
            ),
            "The API fails",
            &format!("{{{{ $value | humanizePercentage }}}} of the requests ended with a 5xx. {tell}"),
        ),
    ]
}
