//! `spec.monitoring`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How the pipeline can be observed, beside the metrics that every pod serves.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MonitoringSpec {
    /// Traces that follow an order from the request over Kafka into the index. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<TracingSpec>,

    /// How soon after its creation an order is to be found by searches; 1s if absent. The condition `Flowing` is False while
    /// more than one order in a hundred takes longer, by what the indexers saw in the last five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]{1,9}(ms|s|m|h))+$')")
            .message("monitoring.freshnessObjective is a duration such as 500ms: use the units ms, s, m and h"),
        validation = Rule::new("!self.matches('^([0-9]{1,9}(ms|s|m|h))+$') || (duration(self) >= duration('50ms') && duration(self) <= duration('1h'))")
            .message("monitoring.freshnessObjective must be between 50ms and 1h")
    )]
    pub freshness_objective: Option<String>,
}

/// Traces that follow an order from the request over Kafka into the index.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TracingSpec {
    /// Where an OpenTelemetry collector takes OTLP over HTTP, for example `http://collector.observability:4318`. While it is
    /// away, traces are lost and nothing else.
    #[schemars(length(min = 1, max = 500))]
    #[x_kube(
        validation = Rule::new("self.matches('^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?$')")
            .message("monitoring.tracing.otlpEndpoint is http:// or https://, a host, an optional port and an optional path, for example http://collector.observability:4318")
    )]
    pub otlp_endpoint: String,

    /// Share of the requests that are traced, from 0 to 1. A caller that sends a trace context decides for itself.
    #[serde(default = "sampling_ratio")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sampling_ratio: f64,
}

fn sampling_ratio() -> f64 {
    0.1
}
