//! `spec.api`, `spec.relay` and `spec.indexer`.

#![allow(
    clippy::struct_field_names,
    reason = "the names are those of the resource's fields"
)]

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{
    ApiAutoscalingSpec, AuthSpec, CorsSpec, GatewaySpec, IndexerAutoscalingSpec, PodTemplateOverrides,
    RateLimitSpec,
};

/// The REST API.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.autoscaling) || (has(self.resources) && ((has(self.resources.requests) && 'cpu' in self.resources.requests) || (has(self.resources.limits) && 'cpu' in self.resources.limits)))")
    .message("api.autoscaling measures CPU by the request, and the default request is what an idle replica needs: set api.resources.requests.cpu to what a busy one is to use")
    .field_path(".autoscaling"))]
pub struct ApiSpec {
    /// Replicas to run, unless `autoscaling` decides.
    #[serde(default = "two")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,

    /// Leaves the number of replicas to a HorizontalPodAutoscaler. Absent: `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<ApiAutoscalingSpec>,

    /// CPU and memory of each replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// Additions to the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplateOverrides>,

    /// Opens the API to callers outside the cluster. Absent: only its Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<IngressSpec>,

    /// Opens the API to callers outside the cluster by a Gateway. Absent: no route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewaySpec>,

    /// How callers prove who they are. Absent: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthSpec>,

    /// How much one caller may ask of one replica. Absent: as much as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitSpec>,

    /// Which pages of other origins may call the API from a browser. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<CorsSpec>,

    /// Addresses and networks of the proxies before the API, such as the ingress controller's pods, for example `10.0.0.0/8`.
    /// The rate limit believes what they say of a client's address (`X-Forwarded-For`), and nobody else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(min = 1, max = 50)))]
    #[x_kube(validation = Rule::new("self.all(p, p.matches('^[0-9a-fA-F.:]+(/[0-9]{1,3})?$'))")
        .message("api.trustedProxies are addresses and networks, for example 10.0.0.0/8, 192.168.1.7 or fd00::/8"))]
    pub trusted_proxies: Vec<String>,
}

/// An Ingress for the API.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.tlsSecretName) || has(self.host)")
    .message("api.ingress.tlsSecretName holds the certificate of a host name: set api.ingress.host too, or remove api.ingress.tlsSecretName")
    .field_path(".tlsSecretName"))]
pub struct IngressSpec {
    /// Ingress class; the cluster's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub class_name: Option<String>,

    /// Host name that callers use. Absent: every host name that reaches the ingress controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')")
        .message("api.ingress.host is a host name in lower case without scheme, port or path, for example orders.example.com"))]
    pub host: Option<String>,

    /// Secret of type `kubernetes.io/tls` in the pipeline's namespace with the certificate of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub tls_secret_name: Option<String>,

    /// Annotations of the Ingress, for the ingress controller or cert-manager.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotations")]
    pub annotations: BTreeMap<String, String>,
}

/// The relay from the outbox to Kafka.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelaySpec {
    /// Replicas to run: one works, the others take over when it stops. So more of them publish no faster, and nothing scales
    /// them.
    #[serde(default = "two")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,

    /// CPU and memory of each replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// Additions to the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplateOverrides>,

    /// Most events that wait for Kafka's acknowledgement at a time.
    #[serde(default = "batch_size")]
    #[schemars(range(min = 1, max = 100_000))]
    pub batch_size: i32,

    /// Longest pause before the outbox is looked at again. New events wake the relay sooner.
    #[serde(default = "poll_interval")]
    #[schemars(length(max = 20))]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]{1,9}(ms|s|m|h))+$')")
            .message("relay.pollInterval is a duration such as 100ms: use the units ms, s, m and h"),
        validation = Rule::new("!self.matches('^([0-9]{1,9}(ms|s|m|h))+$') || (duration(self) >= duration('10ms') && duration(self) <= duration('1m'))")
            .message("relay.pollInterval must be between 10ms and 1m")
    )]
    pub poll_interval: String,
}

/// The indexer from Kafka to Elasticsearch.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexerSpec {
    /// Replicas to run, unless `autoscaling` decides. They share the partitions, so more than there are partitions are refused.
    #[serde(default = "two")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,

    /// Has the operator choose the number of replicas by the lag. Absent: `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<IndexerAutoscalingSpec>,

    /// CPU and memory of each replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// Additions to the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplateOverrides>,

    /// When a bulk request is sent: at the first of these bounds.
    #[serde(default)]
    pub bulk: BulkSpec,
}

/// When a bulk request is sent: at the first of these bounds.
#[allow(
    clippy::struct_field_names,
    reason = "the names are those of the resource's fields"
)]
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkSpec {
    /// The most documents in one request. The indexer begins with fewer, sends more while that costs Elasticsearch no more
    /// time for each, and fewer when it refuses them or takes longer than a second.
    #[serde(default = "max_documents")]
    #[schemars(range(min = 1, max = 50_000))]
    pub max_documents: i32,

    /// Size of one request in bytes, at most 90 MiB, since Elasticsearch refuses more than 100 MiB.
    #[serde(default = "max_bytes")]
    #[schemars(range(min = 1024, max = 94_371_840))]
    pub max_bytes: i32,

    /// Longest time that an event waits for others to share its request.
    #[serde(default = "max_delay")]
    #[schemars(length(max = 20))]
    #[x_kube(
        validation = Rule::new("self.matches('^([0-9]{1,9}(ms|s|m|h))+$')")
            .message("indexer.bulk.maxDelay is a duration such as 50ms: use the units ms, s, m and h"),
        validation = Rule::new("!self.matches('^([0-9]{1,9}(ms|s|m|h))+$') || (duration(self) >= duration('1ms') && duration(self) <= duration('10s'))")
            .message("indexer.bulk.maxDelay must be between 1ms and 10s")
    )]
    pub max_delay: String,
}

/// CPU and memory, as in a container's `resources`. What is absent takes the operator's default.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)")
    .message("resources.requests can't be above resources.limits: lower the request or raise the limit"))]
pub struct Resources {
    /// What the scheduler sets aside.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub requests: BTreeMap<String, Amount>,

    /// What a replica can't exceed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub limits: BTreeMap<String, Amount>,
}

/// How much of a resource, as a number or as a quantity such as `250m` or `1Gi`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    Number(i64),
    Text(String),
}

impl Default for ApiSpec {
    fn default() -> Self {
        Self {
            replicas: two(),
            autoscaling: None,
            resources: None,
            pod_template: None,
            ingress: None,
            gateway: None,
            auth: None,
            rate_limit: None,
            cors: None,
            trusted_proxies: Vec::new(),
        }
    }
}

impl Default for RelaySpec {
    fn default() -> Self {
        Self {
            replicas: two(),
            resources: None,
            pod_template: None,
            batch_size: batch_size(),
            poll_interval: poll_interval(),
        }
    }
}

impl Default for IndexerSpec {
    fn default() -> Self {
        Self {
            replicas: two(),
            autoscaling: None,
            resources: None,
            pod_template: None,
            bulk: BulkSpec::default(),
        }
    }
}

impl Default for BulkSpec {
    fn default() -> Self {
        Self {
            max_documents: max_documents(),
            max_bytes: max_bytes(),
            max_delay: max_delay(),
        }
    }
}

fn annotations(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 50,
        "additionalProperties": { "type": "string", "maxLength": 4096 },
    })
}

/// The pattern is the one that Kubernetes documents for quantities.
fn quantities(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 10,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "maxLength": 30,
            "pattern": r"^(\+)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
        },
    })
}

fn two() -> i32 {
    2
}

fn batch_size() -> i32 {
    5000
}

fn poll_interval() -> String {
    "100ms".into()
}

fn max_documents() -> i32 {
    5000
}

fn max_bytes() -> i32 {
    5 * 1024 * 1024
}

fn max_delay() -> String {
    "50ms".into()
}
