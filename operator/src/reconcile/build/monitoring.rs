//! How the pipeline is watched by Prometheus and Grafana. The names of the metrics are those of the services; a test compares
//! them with what the services register.

mod alerts;
mod dashboard;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::DynamicObject;
use serde_json::json;

use super::{
    super::{
        kinds::Kind,
        names::{self, Component},
        validate::Pipeline,
    },
    add, metadata, object,
};

/// Has Prometheus read the metrics of all pods.
pub fn pod_monitor(pipeline: &Pipeline) -> Option<(Kind, DynamicObject)> {
    let asked = pipeline.monitoring.pod_monitor.as_ref()?;
    let components = Component::ALL.map(Component::as_str);
    let spec = json!({
        "selector": {
            "matchLabels": { names::INSTANCE: pipeline.name, "app.kubernetes.io/managed-by": names::MANAGER },
            "matchExpressions": [{ "key": "app.kubernetes.io/component", "operator": "In", "values": components }],
        },
        "podTargetLabels": ["app.kubernetes.io/component", names::INSTANCE],
        "podMetricsEndpoints": [{ "port": "admin", "path": "/metrics", "interval": asked.interval }],
    });
    Some((
        Kind::PodMonitor,
        object(pipeline, Kind::PodMonitor, "pipeline", &asked.labels, spec),
    ))
}

/// Alerts for what keeps orders from flowing.
pub fn rule(pipeline: &Pipeline) -> Option<(Kind, DynamicObject)> {
    let asked = pipeline.monitoring.alerts.as_ref()?;
    let rules = alerts::rules(pipeline);
    let spec = json!({ "groups": [{ "name": format!("commerce-pipeline.{}.{}", pipeline.namespace, pipeline.name), "rules": rules }] });
    Some((
        Kind::PrometheusRule,
        object(pipeline, Kind::PrometheusRule, "pipeline", &asked.labels, spec),
    ))
}

/// The dashboard, where Grafana's sidecar finds it.
pub fn dashboards(pipeline: &Pipeline) -> Option<ConfigMap> {
    let asked = pipeline.monitoring.dashboards.as_ref()?;
    let mut metadata = metadata(pipeline, &format!("{}-dashboards", pipeline.name), "pipeline");
    let labels = metadata.labels.get_or_insert_default();
    add(labels, &asked.labels);
    labels.insert("grafana_dashboard".to_owned(), "1".to_owned());
    let file = format!("commerce-{}-{}.json", pipeline.namespace, pipeline.name);
    Some(ConfigMap {
        metadata,
        data: Some([(file, dashboard::dashboard(pipeline).to_string())].into()),
        ..ConfigMap::default()
    })
}

/// A metric of the pods of a component, with further matchers.
fn metric(pipeline: &Pipeline, component: Component, name: &str, matchers: &str) -> String {
    let deployment = super::child_name(&pipeline.name, component);
    let namespace = &pipeline.namespace;
    let more = if matchers.is_empty() { "" } else { "," };
    // As a Deployment names its pods: the name of another pipeline may begin in the same way.
    format!("{name}{{namespace=\"{namespace}\",pod=~\"{deployment}-[a-z0-9]+-[a-z0-9]+\"{more}{matchers}}}")
}
