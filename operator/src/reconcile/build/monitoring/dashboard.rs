//! The dashboard of a pipeline: the way of an order from left to right and from top to bottom.

use serde_json::{Value, json};

use super::{
    super::super::{
        names::{self, Component},
        validate::Pipeline,
    },
    metric,
};

/// Panels in a row, on Grafana's 24 columns.
const COLUMNS: usize = 3;
const WIDTH: usize = 24 / COLUMNS;
const HEIGHT: usize = 8;

/// One panel: its title, the unit of its values, and each query with its legend.
struct Panel {
    title: &'static str,
    unit: &'static str,
    queries: Vec<(String, &'static str)>,
}

/// The dashboard as Grafana imports it.
pub fn dashboard(pipeline: &Pipeline) -> Value {
    let panels: Vec<_> = panels(pipeline)
        .into_iter()
        .enumerate()
        .map(|(index, panel)| panel.json(index))
        .collect();
    let uid = format!("commerce-{}-{}", pipeline.namespace, pipeline.name);
    json!({
        "uid": names::short(&uid),
        "title": format!("Commerce pipeline {}/{}", pipeline.namespace, pipeline.name),
        "tags": ["commerce-pipeline"],
        "editable": false,
        "schemaVersion": 39,
        "refresh": "30s",
        "time": { "from": "now-1h", "to": "now" },
        "templating": { "list": [{ "name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source" }] },
        "panels": panels,
    })
}

impl Panel {
    fn json(self, index: usize) -> Value {
        let datasource = json!({ "type": "prometheus", "uid": "${datasource}" });
        let target = |(number, (expression, legend)): (usize, (String, &str))| json!({ "refId": format!("Q{number}"), "datasource": datasource, "expr": expression, "legendFormat": legend });
        let targets: Vec<_> = self.queries.into_iter().enumerate().map(target).collect();
        json!({
            "id": index + 1,
            "type": "timeseries",
            "title": self.title,
            "datasource": datasource,
            "gridPos": { "x": index % COLUMNS * WIDTH, "y": index / COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT },
            "fieldConfig": { "defaults": { "unit": self.unit, "min": 0 }, "overrides": [] },
            "options": { "legend": { "displayMode": "list", "placement": "bottom" }, "tooltip": { "mode": "multi" } },
            "targets": targets,
        })
    }
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn panels(pipeline: &Pipeline) -> Vec<Panel> {
    let api = |name: &str, matchers: &str| metric(pipeline, Component::Api, name, matchers);
    let relay = |name: &str| metric(pipeline, Component::Relay, name, "");
    let indexer = |name: &str| metric(pipeline, Component::Indexer, name, "");
    let rate = |metric: String| format!("sum(rate({metric}[$__rate_interval]))");
    let rate_by =
        |label: &str, metric: String| format!("sum by ({label}) (rate({metric}[$__rate_interval]))");
    let quantiles = |metric: &dyn Fn() -> String| {
        let of = |quantile: f64| {
            format!(
                "histogram_quantile({quantile}, sum by (le) (rate({}[$__rate_interval])))",
                metric()
            )
        };
        vec![(of(0.5), "half"), (of(0.99), "99 of 100")]
    };
    vec![
        Panel {
            title: "Orders",
            unit: "reqps",
            queries: vec![
                (rate(api("mcl_orders_create_success_total", "")), "placed"),
                (rate(api("mcl_orders_create_recovered_total", "")), "replayed"),
                (
                    rate(api("mcl_orders_create_failed_total", "")),
                    "refused or failed",
                ),
            ],
        },
        Panel {
            title: "Requests by status",
            unit: "reqps",
            queries: vec![(
                rate_by("status", api("http_request_duration_seconds_count", "")),
                "{{status}}",
            )],
        },
        Panel {
            title: "Time to place an order",
            unit: "s",
            queries: quantiles(&|| {
                api(
                    "http_request_duration_seconds_bucket",
                    r#"route="/orders",method="POST""#,
                )
            }),
        },
        Panel {
            title: "Group commit: orders that wait, and orders refused",
            unit: "short",
            queries: vec![
                (
                    format!("sum({})", api("commerce_group_commit_queued_orders", "")),
                    "wait",
                ),
                (
                    rate(api("commerce_group_commit_refused_orders_total", "")),
                    "refused a second",
                ),
            ],
        },
        Panel {
            title: "Group commit: time of a transaction",
            unit: "s",
            queries: quantiles(&|| api("commerce_group_commit_duration_seconds_bucket", "")),
        },
        Panel {
            title: "Orders found after",
            unit: "s",
            queries: quantiles(&|| indexer("commerce_order_freshness_seconds_bucket")),
        },
        Panel {
            title: "Outbox",
            unit: "short",
            queries: vec![
                (
                    format!("max({})", relay("mcl_outbox_backlog_new")),
                    "not published",
                ),
                (format!("max({})", relay("mcl_outbox_backlog_failed")), "parked"),
                (format!("max({})", relay("commerce_relay_in_flight")), "under way"),
            ],
        },
        Panel {
            title: "Oldest event that is not published",
            unit: "s",
            queries: vec![(
                format!("max({})", relay("commerce_relay_oldest_unpublished_seconds")),
                "age",
            )],
        },
        Panel {
            title: "Events published",
            unit: "ops",
            queries: vec![
                (rate(relay("mcl_kafka_publish_success_total")), "acknowledged"),
                (rate(relay("mcl_kafka_publish_failed_total")), "refused"),
            ],
        },
        Panel {
            title: "Time from commit to Kafka",
            unit: "s",
            queries: quantiles(&|| relay("commerce_relay_publish_latency_seconds_bucket")),
        },
        Panel {
            title: "Relays at work, and takeovers",
            unit: "short",
            queries: vec![
                (format!("sum({})", relay("commerce_relay_active")), "active"),
                (
                    format!(
                        "sum(increase({}[$__rate_interval]))",
                        relay("commerce_relay_terms_total")
                    ),
                    "takeovers",
                ),
            ],
        },
        Panel {
            title: "Lag",
            unit: "short",
            queries: vec![(
                format!("sum by (topic) ({})", indexer("commerce_indexer_consumer_lag")),
                "{{topic}}",
            )],
        },
        Panel {
            title: "Events indexed",
            unit: "ops",
            queries: vec![
                (
                    rate_by("outcome", indexer("commerce_indexer_events_total")),
                    "{{outcome}}",
                ),
                (rate(indexer("commerce_indexer_retries_total")), "sent again"),
            ],
        },
        Panel {
            title: "Time of a bulk request",
            unit: "s",
            queries: quantiles(&|| indexer("commerce_indexer_bulk_duration_seconds_bucket")),
        },
        Panel {
            title: "Time of a refresh",
            unit: "s",
            queries: quantiles(&|| indexer("commerce_indexer_refresh_duration_seconds_bucket")),
        },
        Panel {
            title: "Searches by where the answer came from",
            unit: "reqps",
            queries: vec![(
                rate_by("level, outcome", api("commerce_search_answers_total", "")),
                "{{level}} {{outcome}}",
            )],
        },
        Panel {
            title: "Time of a search",
            unit: "s",
            queries: quantiles(&|| {
                api(
                    "http_request_duration_seconds_bucket",
                    r#"route="/search/orders""#,
                )
            }),
        },
        Panel {
            title: "Redis left alone (2), tried (1), used (0)",
            unit: "short",
            queries: vec![
                (
                    format!("max({})", api("commerce_redis_breaker_state", "")),
                    "by the API",
                ),
                (
                    rate(indexer("commerce_indexer_cache_invalidation_failures_total")),
                    "failed invalidations a second",
                ),
            ],
        },
    ]
}
