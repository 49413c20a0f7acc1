//! `podTemplate` of the services.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::network::labels;

/// Additions to the pods of a service, merged into what the operator makes as `kubectl patch` would by default: lists of
/// containers, volumes and the like are merged by name. Fields can be added and changed, not removed.
///
/// What the operator itself relies on can't be changed: the labels that select the pods, the account, image, arguments,
/// environment, ports, probes and mounts of the service's own container, and its draining.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplateOverrides {
    /// Labels and annotations of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<PodMetadata>,

    /// Fields of a pod's `spec`, for example `tolerations`, `affinity`, `nodeSelector`, or `containers` with sidecars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_spec")]
    pub spec: Option<Map<String, Value>>,
}

/// Labels and annotations of pods.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodMetadata {
    /// Labels, besides those that the operator sets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('app.kubernetes.io/'))")
        .message("podTemplate.metadata.labels: the labels app.kubernetes.io/… are how the pods are found: choose other names"))]
    pub labels: BTreeMap<String, String>,

    /// Annotations, besides those that the operator sets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotations")]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('commerce.lab/'))")
        .message("podTemplate.metadata.annotations: the annotations commerce.lab/… are the operator's own: choose other names"))]
    pub annotations: BTreeMap<String, String>,
}

fn pod_spec(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

fn annotations(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 50,
        "additionalProperties": { "type": "string", "maxLength": 4096 },
    })
}
