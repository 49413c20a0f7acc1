//! `spec.monitoring`.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::network::labels;

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

    /// Has Prometheus read the metrics of all pods, by a PodMonitor. Absent: none. It needs the definitions of the Prometheus
    /// Operator; while the cluster has them not, the condition `IntegrationsMissing` tells so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_monitor: Option<PodMonitorSpec>,

    /// Alert rules for what keeps orders from flowing, as a PrometheusRule. Absent: none. It needs the same definitions, and
    /// metrics that carry the labels `namespace` and `pod`, as those of the PodMonitor do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerts: Option<AlertsSpec>,

    /// A dashboard for Grafana, as a ConfigMap with the label `grafana_dashboard: "1"`, which Grafana's sidecar looks for.
    /// Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dashboards: Option<DashboardsSpec>,
}

/// Has Prometheus read the metrics of all pods.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodMonitorSpec {
    /// Labels by which a Prometheus chooses its PodMonitors, for example `release: kube-prometheus-stack`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub labels: BTreeMap<String, String>,

    /// How often the metrics are read.
    #[serde(default = "interval")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = Rule::new("self.matches('^[1-9][0-9]{0,5}(ms|s|m)$')")
        .message("monitoring.podMonitor.interval is a number with one of the units ms, s and m, for example 15s"))]
    pub interval: String,
}

/// Alert rules for what keeps orders from flowing.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertsSpec {
    /// Labels by which a Prometheus chooses its rules, for example `release: kube-prometheus-stack`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub labels: BTreeMap<String, String>,
}

/// A dashboard for Grafana.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DashboardsSpec {
    /// Labels of the ConfigMap, besides `grafana_dashboard`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub labels: BTreeMap<String, String>,
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

fn interval() -> String {
    "15s".into()
}

fn sampling_ratio() -> f64 {
    0.1
}
