//! The `CommercePipeline` resource: its types are the one source of the CRD in `crds/`, of its reference in `docs/` and of
//! what the reconciler reads.
//!
//! Every field carries a description, a bound and, where one makes sense, a default, so that `kubectl explain` is enough to
//! write a pipeline. What a schema can't say is a CEL rule whose message tells what to do; what a rule can't see (another
//! object, a store) is checked by the reconciler and told in a condition.

mod access;
mod definition;
mod elasticsearch;
mod gateway;
mod kafka;
mod monitoring;
mod network;
mod postgres;
mod redis;
mod reference;
mod scaling;
mod secrets;
mod status;
mod template;
mod workloads;

pub use access::{AuthMode, AuthSpec, CorsSpec, JwtAlgorithm, JwtSpec, RateLimitSpec};
pub use definition::definition;
pub use elasticsearch::{ElasticsearchAuth, ElasticsearchSpec, IndexSpec, MappingsSpec};
pub use gateway::{GatewayRef, GatewaySpec};
pub use kafka::{KafkaSasl, KafkaSpec, SaslMechanism, TopicsSpec};
pub use monitoring::{AlertsSpec, DashboardsSpec, MonitoringSpec, PodMonitorSpec, TracingSpec};
pub use network::{NetworkPolicySpec, PeerSpec};
pub use postgres::{Migrations, PostgresSpec};
pub use redis::{RedisAuth, RedisSpec};
pub use reference::reference;
pub use scaling::{ApiAutoscalingSpec, IndexerAutoscalingSpec};
pub use secrets::{CertificateSecretRef, SecretKeyRef, SecretName, TlsSpec, UriSecretRef};
pub use status::{
    CommercePipelineStatus, ComponentStatus, DeletionState, DeletionStatus, FreshnessStatus, IndexStatus,
    OutboxStatus, TopicStatus,
};
pub use template::{PodMetadata, PodTemplateOverrides};
pub use workloads::{Amount, ApiSpec, BulkSpec, IndexerSpec, IngressSpec, RelaySpec, Resources};

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to run, and the stores to run it on.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "commerce.lab",
    version = "v1alpha1",
    kind = "CommercePipeline",
    plural = "commercepipelines",
    shortname = "cpl",
    category = "commerce",
    namespaced,
    status = "CommercePipelineStatus",
    derive = "PartialEq",
    doc = "An order pipeline: a REST API that takes orders, a transactional outbox, a relay to Kafka, an indexer to Elasticsearch and a cached search, on stores that already run.",
    scale(
        spec_replicas_path = ".spec.api.replicas",
        status_replicas_path = ".status.api.replicas",
        label_selector_path = ".status.api.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether every part of the pipeline is as the spec asks"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready, or the first step that is not"
    ),
    printcolumn(
        name = "Flow",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Flowing\")].reason",
        description = "Flowing, or what keeps orders from the index"
    ),
    printcolumn(name = "Backlog", type_ = "integer", json_path = ".status.outbox.new", description = "Events that are not published"),
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.consumerLag", description = "Events in Kafka that are not indexed"),
    printcolumn(
        name = "Freshness",
        type_ = "string",
        json_path = ".status.freshness.p99",
        description = "How soon 99 of 100 orders could be found"
    ),
    printcolumn(name = "API", type_ = "integer", json_path = ".status.api.ready", description = "Ready API replicas", priority = 1),
    printcolumn(name = "Tag", type_ = "string", json_path = ".spec.image.tag", description = "Version asked for", priority = 1),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url", description = "Address of the REST API", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "What to do about it",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name is the start of the names of Services and Jobs: use at most 40 characters of a-z, 0-9 and '-', starting with a letter and not ending in '-'")
)]
#[x_kube(
    validation = Rule::new("!has(self.catalogue) || !has(self.catalogue.seed) || self.postgres.migrations == 'Auto'")
        .message("catalogue.seed is written by the migration Job, which postgres.migrations: Manual turns off: remove catalogue.seed and run `api migrate --seed-skus N --seed-stock M` yourself, or set postgres.migrations: Auto")
        .field_path(".catalogue.seed"),
    validation = Rule::new("self.image.tag != 'latest' || self.imagePullPolicy == 'Always'")
        .message("the tag latest moves, and nodes that have it would go on with the old image: name a version in image.tag, or set imagePullPolicy: Always")
        .field_path(".image.tag"),
    validation = Rule::new("has(self.indexer.autoscaling) || self.indexer.replicas <= self.kafka.topics.partitions")
        .message("indexer.replicas is above kafka.topics.partitions, so some replicas would have nothing to read: lower indexer.replicas, or raise kafka.topics.partitions")
        .field_path(".indexer.replicas"),
    validation = Rule::new("!has(self.indexer.autoscaling) || self.indexer.autoscaling.maxReplicas <= self.kafka.topics.partitions")
        .message("indexer.autoscaling.maxReplicas is above kafka.topics.partitions, so some replicas would have nothing to read: lower indexer.autoscaling.maxReplicas, or raise kafka.topics.partitions")
        .field_path(".indexer.autoscaling.maxReplicas"),
    validation = Rule::new("(has(self.postgres.deletionPolicy) ? self.postgres.deletionPolicy : self.deletionPolicy) == 'Retain' || [has(self.kafka.deletionPolicy) ? self.kafka.deletionPolicy : self.deletionPolicy, has(self.elasticsearch.deletionPolicy) ? self.elasticsearch.deletionPolicy : self.deletionPolicy].all(p, p == 'Delete')")
        .message("postgres.deletionPolicy: Delete needs Delete for kafka and elasticsearch too: order numbers begin at 1 again in new tables, and what is kept of the old orders would be taken for the new ones. Keep the tables, or remove the topics and the index as well")
        .field_path(".postgres.deletionPolicy")
)]
pub struct CommercePipelineSpec {
    /// Where the images of the services come from.
    pub image: ImageSpec,

    /// When the nodes pull the images.
    #[serde(default)]
    pub image_pull_policy: ImagePullPolicy,

    /// Secrets of type `kubernetes.io/dockerconfigjson`, in this namespace, that may pull the images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub image_pull_secrets: Vec<SecretName>,

    /// Priority class of all pods; the cluster's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub priority_class_name: Option<String>,

    /// Freezes the pipeline: while true the operator writes nothing, neither to the cluster nor to the stores, and what
    /// runs goes on running. Deletion is still honoured.
    #[serde(default)]
    pub suspend: bool,

    /// What happens to the topics, the index and the database tables when the pipeline is deleted. `Retain` keeps them, and
    /// a pipeline of the same names takes them up again; `Delete` removes them with all their data. Each of `postgres`,
    /// `kafka` and `elasticsearch` may say otherwise for itself. What is in Redis expires.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// What happens when somebody else has changed the topics, the index template, the index or its alias. `Correct` puts
    /// back what the spec says; `Observe` leaves it and tells what differs in the condition `DriftDetected`. A change of the
    /// spec or of a Secret is carried out in either case, and with it everything that differs.
    #[serde(default)]
    pub drift_policy: DriftPolicy,

    /// The products that the pipeline starts with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalogue: Option<CatalogueSpec>,

    /// The database of orders, stock and outbox.
    pub postgres: PostgresSpec,

    /// The cluster that carries the order events.
    pub kafka: KafkaSpec,

    /// The cluster that searches orders.
    pub elasticsearch: ElasticsearchSpec,

    /// The cache of searches and of answers to repeated requests. Orders do not depend on it.
    pub redis: RedisSpec,

    /// The REST API.
    #[serde(default)]
    pub api: ApiSpec,

    /// The relay from the outbox to Kafka. One replica is active, the others stand by.
    #[serde(default)]
    pub relay: RelaySpec,

    /// The indexer from Kafka to Elasticsearch. Replicas share the partitions of the topics.
    #[serde(default)]
    pub indexer: IndexerSpec,

    /// How the pipeline can be observed, beside the metrics that every pod serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<MonitoringSpec>,

    /// Who may connect to the pods, and where they may connect to.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,
}

/// Where the images of the services come from: `<registry>/commerce-<component>:<tag>`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// Registry and path before `/commerce-api`, for example `ghcr.io/example`.
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(
        validation = Rule::new("!self.contains('://')")
            .message("image.registry is a registry and path without a scheme: write ghcr.io/example instead of https://ghcr.io/example"),
        validation = Rule::new("self.contains('://') || self.matches('^[a-z0-9]([a-z0-9._-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]([a-z0-9._-]*[a-z0-9])?)*$')")
            .message("image.registry is a host, an optional port and an optional path, in lower case and without a '/' at the end, for example ghcr.io/example")
    )]
    pub registry: String,

    /// Version of all three services.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_][A-Za-z0-9._-]*$')")
        .message("image.tag is letters, digits, '_', '.' and '-', starting with a letter, digit or '_', for example 1.4.2"))]
    pub tag: String,
}

/// When the nodes pull the images.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImagePullPolicy {
    Always,
    #[default]
    IfNotPresent,
    Never,
}

/// What happens to data in the stores when the pipeline is deleted.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeletionPolicy {
    #[default]
    Retain,
    Delete,
}

/// What happens when topics, template, index or alias were changed by somebody else.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DriftPolicy {
    #[default]
    Correct,
    Observe,
}

/// The products that the pipeline starts with.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CatalogueSpec {
    /// Writes a generated catalogue once. SKUs that are already there are left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<SeedSpec>,
}

/// A generated catalogue.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.stock) || has(self.skus)")
    .message("catalogue.seed.stock is the stock of each seeded SKU, and without catalogue.seed.skus there is none: set catalogue.seed.skus, or remove catalogue.seed"))]
pub struct SeedSpec {
    /// How many SKUs to write. Their ids start at 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub skus: Option<i32>,

    /// Stock of each seeded SKU; 1000000 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub stock: Option<i64>,
}
