//! `spec.elasticsearch`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{DeletionPolicy, SecretKeyRef, TlsSpec};

/// The cluster that searches orders.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.tls) || !self.url.startsWith('http://')")
    .message("elasticsearch.tls only matters for https: change elasticsearch.url to https://, or remove elasticsearch.tls")
    .field_path(".tls"))]
pub struct ElasticsearchSpec {
    /// Address of the cluster, for example `https://search-es-http:9200`.
    #[schemars(length(min = 1, max = 500))]
    #[x_kube(
        validation = Rule::new("!self.contains('@')")
            .message("elasticsearch.url must not hold credentials, as it is visible to everyone who can read the pipeline: put them into elasticsearch.auth"),
        validation = Rule::new("self.contains('@') || self.matches('^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?$')")
            .message("elasticsearch.url is http:// or https://, a host, an optional port and an optional path, for example https://search-es-http:9200")
    )]
    pub url: String,

    /// How the services log in. Absent: no login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<ElasticsearchAuth>,

    /// Whom to trust, and who we are, where the URL is `https://`. Absent: the public certificate authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,

    /// The index that the operator creates.
    #[serde(default)]
    pub index: IndexSpec,

    /// What happens to the index when the pipeline is deleted; `spec.deletionPolicy` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

/// How the services log in to Elasticsearch.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ElasticsearchAuth {
    /// User name.
    #[serde(default = "elastic")]
    #[schemars(length(min = 1, max = 200))]
    pub username: String,

    /// Password. ECK writes it to `<cluster>-es-elastic-user`, key `elastic`.
    pub password_secret_ref: SecretKeyRef,
}

/// The index of orders: an index template, a concrete index, and an alias through which it is read and written.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.name == oldSelf.name")
        .message("elasticsearch.index.name can't be changed: the orders of the old index would not be found; put the old value back, or make a new pipeline")
        .field_path(".name"),
    validation = Rule::new("self.shards == oldSelf.shards")
        .message("elasticsearch.index.shards is fixed when the index is created: put the old value back")
        .field_path(".shards")
)]
pub struct IndexSpec {
    /// Name of the alias, of the index template and start of the concrete indices' names. It can't be changed later.
    #[serde(default = "orders")]
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9][a-z0-9._-]*$')")
        .message("elasticsearch.index.name is a-z, 0-9, '.', '_' and '-', starting with a letter or digit, for example shop-orders"))]
    pub name: String,

    /// Primary shards. They can't be changed later.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100))]
    pub shards: i32,

    /// Copies of each shard. More than the cluster has nodes to put them on leaves the index yellow.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10))]
    pub replicas: i32,

    /// How often Elasticsearch makes writes searchable by itself, a safety net: the indexer asks for it soon after each write.
    /// `-1` leaves it to the indexer alone.
    #[serde(default = "refresh_interval")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = Rule::new("self.matches('^(-1|[1-9][0-9]{0,5}(ms|s|m))$')")
        .message("elasticsearch.index.refreshInterval is -1 or a number with the unit ms, s or m, for example 1s"))]
    pub refresh_interval: String,

    /// Additions to the mapping. The mapping stays `dynamic: strict`. A change gives a new index, which is filled from
    /// PostgreSQL beside live events and then takes the place of the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mappings: Option<MappingsSpec>,

    /// Index settings besides shards, replicas and refresh interval, without the prefix `index.`, for example
    /// `codec: best_compression`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub settings: Option<Map<String, Value>>,
}

/// Additions to the mapping.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MappingsSpec {
    /// Fields besides the pipeline's own, or other definitions of them, as in Elasticsearch's `mappings.properties`.
    #[serde(default)]
    #[schemars(schema_with = "any_object")]
    pub properties: Map<String, Value>,
}

impl Default for IndexSpec {
    fn default() -> Self {
        Self {
            name: orders(),
            shards: one(),
            replicas: 0,
            refresh_interval: refresh_interval(),
            mappings: None,
            settings: None,
        }
    }
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

fn elastic() -> String {
    "elastic".into()
}

fn orders() -> String {
    "orders".into()
}

fn one() -> i32 {
    1
}

fn refresh_interval() -> String {
    "30s".into()
}
