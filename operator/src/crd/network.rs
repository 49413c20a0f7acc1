//! `spec.networkPolicy`.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Who may connect to the pods, and where they may connect to.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Allows the pods what the pipeline needs and nothing else, by NetworkPolicies: calls of the API's port from anywhere; calls
    /// of port 9090 from the operator and from `metricsFrom`; DNS, the ports of the stores, of the JWKS and of the OTLP
    /// collector, each from the pods that use it. The network of the cluster has to enforce NetworkPolicies.
    ///
    /// Off by default, since the spec does not tell everything: brokers that advertise other ports than
    /// `kafka.bootstrapServers` has, Services that lead to pods under another port, and sidecars need `egressPorts`.
    #[serde(default)]
    pub enabled: bool,

    /// Pods that may read the metrics. A pod of Prometheus, by the label that its operator and its charts give it, if absent.
    #[serde(default = "prometheus")]
    #[schemars(length(max = 10))]
    pub metrics_from: Vec<PeerSpec>,

    /// TCP ports that the pods may connect to, besides those that the spec tells.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(range(min = 1, max = 65535)))]
    pub egress_ports: Vec<i32>,
}

/// Pods of this or another namespace.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.namespaceLabels) && size(self.namespaceLabels) > 0) || (has(self.podLabels) && size(self.podLabels) > 0)")
    .message("networkPolicy.metricsFrom: an entry without labels would admit every pod of the cluster: set podLabels, namespaceLabels or both"))]
pub struct PeerSpec {
    /// Labels of their namespace, for example `kubernetes.io/metadata.name: monitoring`. Absent: any namespace.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub namespace_labels: BTreeMap<String, String>,

    /// Labels of the pods. Absent: all pods of those namespaces.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub pod_labels: BTreeMap<String, String>,
}

impl Default for NetworkPolicySpec {
    fn default() -> Self {
        Self {
            enabled: false,
            metrics_from: prometheus(),
            egress_ports: Vec::new(),
        }
    }
}

/// Labels as Kubernetes takes them.
pub(super) fn labels(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 20,
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
        },
    })
}

fn prometheus() -> Vec<PeerSpec> {
    let pod_labels = [("app.kubernetes.io/name".to_owned(), "prometheus".to_owned())].into();
    vec![PeerSpec {
        pod_labels,
        ..PeerSpec::default()
    }]
}
