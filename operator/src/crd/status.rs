//! `status`: what the operator saw when it last looked.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator saw when it last looked.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommercePipelineStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Ready`, and one condition for each step before it: `StoresReachable`, `SchemaReady`, `TopicsReady`, `IndexReady`,
    /// `ApiAvailable`, `RelayAvailable`, `IndexerAvailable`. `Flowing` tells whether orders reach the index in time;
    /// `DriftDetected` is true while topics, template, index or alias differ from the spec, and tells each field. Neither is a
    /// part of `Ready`, which speaks of what the spec asks for. `Suspended` is true while `suspend` is.
    /// `IntegrationsMissing` is there only while the spec asks for kinds that the cluster does not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,

    /// The REST API's replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<ComponentStatus>,

    /// The relay's replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<ComponentStatus>,

    /// The indexer's replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indexer: Option<ComponentStatus>,

    /// Version of the database schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<i64>,

    /// The topics that the pipeline uses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<TopicStatus>,

    /// The index that the pipeline uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexStatus>,

    /// The events in PostgreSQL, as the active relay tells. Absent while no relay tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbox: Option<OutboxStatus>,

    /// Events in Kafka that are not indexed. Written when it has changed by a quarter, with two digits; fewer than 100 that
    /// move, or less than two seconds' work, count as 0. Absent while an indexer does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer_lag: Option<i64>,

    /// How soon orders could be found, as of the last five minutes in which there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freshness: Option<FreshnessStatus>,

    /// Address of the REST API: the Ingress if there is one, else the first host name of the HTTPRoute, else the Service.
    /// Of a host name of the HTTPRoute it is `https` where `sectionName` begins so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,

    /// Fingerprint of the spec and the Secrets for which schema, topics and index were last ready together. While a store
    /// is away the operator keeps the workloads in repair for these, and rolls out nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared_for: Option<String>,

    /// What becomes of the data in each store, while the pipeline is being deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "deletion")]
    pub deletion: Vec<DeletionStatus>,
}

/// What becomes of the data in one store when the pipeline is deleted.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeletionStatus {
    /// `PostgreSQL`, `Kafka` or `Elasticsearch`.
    pub store: String,

    /// `Retained`: it is kept. `Waiting`: it is still to be removed. `Removed`: it is gone.
    /// `Left`: it could not be removed, and is not tried any more.
    pub state: DeletionState,

    /// Why, for people.
    pub message: String,
}

/// How far the removal from one store is.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeletionState {
    Retained,
    Waiting,
    Removed,
    Left,
}

/// Replicas of one component.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// Replicas that exist.
    pub replicas: i32,

    /// Replicas that are ready.
    pub ready: i32,

    /// Label selector of the pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

/// One topic.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicStatus {
    /// Name of the topic.
    pub name: String,

    /// Partitions that it has.
    pub partitions: i32,
}

/// The index of orders.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexStatus {
    /// Alias through which the index is read and written.
    pub alias: String,

    /// Concrete index behind the alias.
    pub active: String,

    /// Documents in it. Written when it has changed by a quarter, with two digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<i64>,

    /// Concrete index with the mapping that the spec asks for, while it is filled to take the place of the active one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,

    /// How many documents the target has, in percent of those of the active index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<i32>,
}

/// The events in PostgreSQL.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboxStatus {
    /// Events that are not published. Written when it has changed by a quarter, with two digits; while none has waited for
    /// two seconds it counts as 0.
    pub new: i64,

    /// Events that Kafka refused, and those that wait behind one. Exact.
    pub failed: i64,

    /// Age of the oldest event that is not published, for example 35s. Written when it has changed by a quarter, with two
    /// digits; below two seconds it is 0s.
    pub oldest_unpublished: String,
}

/// Time from an order's creation until searches find it, as the slowest indexer tells. Written when it has changed by a
/// quarter and by 50ms, with two digits.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FreshnessStatus {
    /// What half of the orders took at most, for example 120ms.
    pub p50: String,

    /// What 99 of 100 orders took at most, for example 300ms.
    pub p99: String,
}

/// Kubernetes' own condition type, as a list keyed by `type`.
fn conditions(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": { "type": "string", "maxLength": 316, "description": "What the condition is about." },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds." },
                "reason": { "type": "string", "maxLength": 1024, "minLength": 1, "description": "Why, in one word for programs." },
                "message": { "type": "string", "maxLength": 32768, "description": "Why and what to do, for people." },
                "lastTransitionTime": { "type": "string", "format": "date-time", "description": "When the status last changed." },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0, "description": "Generation of the spec that the condition speaks of." },
            },
        },
    })
}

/// A list keyed by `store`.
fn deletion(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut schema = generator.subschema_for::<Vec<DeletionStatus>>();
    schema.insert("x-kubernetes-list-type".to_owned(), "map".into());
    schema.insert(
        "x-kubernetes-list-map-keys".to_owned(),
        serde_json::json!(["store"]),
    );
    schema
}
