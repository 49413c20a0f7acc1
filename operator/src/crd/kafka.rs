//! `spec.kafka`.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DeletionPolicy, SecretKeyRef, TlsSpec};

/// The cluster that carries the order events.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.sasl) || has(self.tls) || self.sasl.allowUnencrypted")
    .message("kafka.sasl without kafka.tls sends the credentials over an unencrypted connection: add kafka.tls ({} trusts the system's certificate authorities), or set kafka.sasl.allowUnencrypted: true if the network is trusted")
    .field_path(".sasl"))]
pub struct KafkaSpec {
    /// Brokers to start from, `host:port` separated by commas.
    #[schemars(length(min = 1, max = 1000))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9._-]+:[0-9]{1,5}(,[A-Za-z0-9._-]+:[0-9]{1,5})*$')")
        .message("kafka.bootstrapServers is host:port, or several separated by commas and no spaces, for example kafka-0.kafka:9092,kafka-1.kafka:9092"))]
    pub bootstrap_servers: String,

    /// Encrypts the connections. An empty object trusts the system's certificate authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,

    /// Authenticates with a user name and a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<KafkaSasl>,

    /// The topics that the operator creates.
    #[serde(default)]
    pub topics: TopicsSpec,

    /// What happens to the topics when the pipeline is deleted; `spec.deletionPolicy` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

/// How the services log in to Kafka.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KafkaSasl {
    /// SASL mechanism.
    pub mechanism: SaslMechanism,

    /// User name.
    #[schemars(length(min = 1, max = 200))]
    pub username: String,

    /// Password. Strimzi writes it to a Secret named like the KafkaUser, key `password`.
    pub password_secret_ref: SecretKeyRef,

    /// Accepts that the credentials travel over an unencrypted connection.
    #[serde(default)]
    pub allow_unencrypted: bool,
}

/// SASL mechanism.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaslMechanism {
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl SaslMechanism {
    /// As Kafka spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// The topics that the operator creates: `order.created`, `order.cancelled` and a dead-letter topic `<topic>.dlq` for each.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.prefix == oldSelf.prefix")
        .message("kafka.topics.prefix can't be changed: events in the old topics would never be indexed; put the old value back, or make a new pipeline")
        .field_path(".prefix"),
    validation = Rule::new("self.partitions >= oldSelf.partitions")
        .message("kafka.topics.partitions can't be lowered, as Kafka can't remove partitions: put the old value or a higher one")
        .field_path(".partitions"),
    validation = Rule::new("self.replicationFactor == oldSelf.replicationFactor")
        .message("kafka.topics.replicationFactor is fixed when the topics are created: put the old value back, and move replicas with kafka-reassign-partitions.sh")
        .field_path(".replicationFactor"),
    validation = Rule::new("!('cleanup.policy' in self.config) || self.config['cleanup.policy'] == 'delete'")
        .message("kafka.topics.config: cleanup.policy must be delete, as compaction would drop events before they are indexed: remove it")
        .field_path(".config"),
    validation = Rule::new("!('min.insync.replicas' in self.config) || (self.config['min.insync.replicas'].matches('^[1-9][0-9]?$') && int(self.config['min.insync.replicas']) <= self.replicationFactor)")
        .message("kafka.topics.config: min.insync.replicas must be a number from 1 to replicationFactor, or nothing could be written: lower it, or raise kafka.topics.replicationFactor")
        .field_path(".config"),
    validation = Rule::new("!self.config.exists(k, k in ['partitions', 'num.partitions', 'replication.factor', 'default.replication.factor'])")
        .message("kafka.topics.config holds topic settings such as retention.ms: use kafka.topics.partitions and kafka.topics.replicationFactor for partitions and replicas")
        .field_path(".config")
)]
pub struct TopicsSpec {
    /// What the topic names start with, so that pipelines can share a cluster. It can't be changed later.
    #[serde(default)]
    #[schemars(length(max = 100))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9._-]*$')")
        .message("kafka.topics.prefix is letters, digits, '.', '_' and '-', for example shop."))]
    pub prefix: String,

    /// Partitions of each topic. It can be raised, never lowered. Raising it sends later events of an order to another
    /// partition; the versions of the documents keep the result right.
    #[serde(default = "partitions")]
    #[schemars(range(min = 1, max = 1000))]
    pub partitions: i32,

    /// Copies of each partition. It can't be more than there are brokers, and can't be changed later.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 10))]
    pub replication_factor: i32,

    /// Settings of each topic, for example `retention.ms: "604800000"`. The dead-letter topics get them too.
    // Serialized when empty too: the rules read it, and the API server judges the default of `topics` by them.
    #[serde(default)]
    #[schemars(schema_with = "topic_config")]
    pub config: BTreeMap<String, String>,
}

impl Default for TopicsSpec {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            partitions: partitions(),
            replication_factor: one(),
            config: BTreeMap::new(),
        }
    }
}

fn topic_config(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 50,
        "default": {},
        "additionalProperties": { "type": "string", "maxLength": 200 },
    })
}

fn partitions() -> i32 {
    6
}

fn one() -> i32 {
    1
}
