//! The pipelines, and the stores that they share: each has a schema, topics, an index and keys of its own.

use anyhow::{Context as _, Result};
use commerce_core::testing::{Elasticsearch, Kafka, Postgres, Redis};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{ApiResource, DynamicObject, ListParams, PostParams},
    discovery::{Discovery, verbs},
};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::{Versions, cluster::Cluster};

/// Pipelines in a namespace.
const TOGETHER: u32 = 10;
const AT_ONCE: usize = 8;

pub struct Stores {
    postgres: Postgres,
    kafka: Kafka,
    elasticsearch: Elasticsearch,
    redis: Redis,
}

impl Stores {
    pub async fn start() -> Result<Self> {
        let (postgres, kafka, elasticsearch, redis) = tokio::try_join!(
            Postgres::start(),
            Kafka::optimised(),
            Elasticsearch::optimised(),
            Redis::start()
        )?;
        Ok(Self {
            postgres,
            kafka,
            elasticsearch,
            redis,
        })
    }

    /// A URI whose connections see the schema alone.
    fn schema(&self, schema: &str) -> String {
        format!("{}?options[search_path]={schema}", self.postgres.url())
    }
}

pub struct Pipelines {
    kinds: Vec<ApiResource>,
}

impl Pipelines {
    /// Creates pipelines, with their namespaces and Secrets; nobody looks at them yet.
    pub async fn create(cluster: &Cluster, stores: &Stores, count: u32) -> Result<Self> {
        let mut database = PgConnection::connect(&stores.postgres.url()).await?;
        for number in 0..count {
            let statement = format!("create schema {}", schema(number));
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
                .execute(&mut database)
                .await?;
        }
        let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
        for number in 0..count.div_ceil(TOGETHER) {
            let object: Namespace =
                serde_json::from_value(json!({"metadata": {"name": namespace(number * TOGETHER)}}))?;
            namespaces.create(&PostParams::default(), &object).await?;
        }
        stream::iter(0..count)
            .map(|number| create(cluster, stores, number))
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<_>>()
            .await
            .context("creating the pipelines")?;
        Ok(Self {
            kinds: kinds(cluster).await?,
        })
    }

    /// Of all objects in the pipelines' namespaces, events too.
    pub async fn versions(&self, cluster: &Cluster) -> Result<Versions> {
        let mut versions = Versions::new();
        for kind in &self.kinds {
            let api: Api<DynamicObject> = Api::all_with(cluster.client.clone(), kind);
            for object in api.list_metadata(&ListParams::default()).await?.items {
                let namespace = object.namespace().unwrap_or_default();
                if namespace.starts_with("team-") {
                    let name = format!("{} {namespace}/{}", kind.kind, object.name_any());
                    versions.insert(name, object.resource_version().unwrap_or_default());
                }
            }
        }
        Ok(versions)
    }

    /// Objects that were made, changed or removed since.
    pub async fn changed_since(&self, cluster: &Cluster, before: &Versions) -> Result<usize> {
        let now = self.versions(cluster).await?;
        let changed = now
            .iter()
            .filter(|(name, version)| before.get(*name) != Some(version));
        let removed = before.keys().filter(|name| !now.contains_key(*name));
        Ok(changed.count() + removed.count())
    }
}

/// All namespaced kinds that can be listed.
async fn kinds(cluster: &Cluster) -> Result<Vec<ApiResource>> {
    let discovery = Discovery::new(cluster.client.clone()).run().await?;
    let lease = k8s_openapi::api::coordination::v1::Lease::kind(&());
    let kinds = discovery
        .groups()
        .flat_map(kube::discovery::ApiGroup::recommended_resources);
    let listed = kinds.filter(|(kind, can)| can.supports_operation(verbs::LIST) && kind.kind != lease);
    Ok(listed
        .filter(|(_, can)| can.scope == kube::discovery::Scope::Namespaced)
        .map(|(kind, _)| kind)
        .collect())
}

fn schema(number: u32) -> String {
    format!("p{number:03}")
}

fn namespace(number: u32) -> String {
    format!("team-{:02}", number / TOGETHER)
}

async fn create(cluster: &Cluster, stores: &Stores, number: u32) -> Result<()> {
    let (name, namespace) = (schema(number), namespace(number));
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &namespace);
    for (store, uri) in [("postgres", stores.schema(&name)), ("redis", stores.redis.url())] {
        let secret = json!({"metadata": {"name": format!("{name}-{store}")}, "stringData": {"uri": uri}});
        secrets
            .create(&PostParams::default(), &serde_json::from_value(secret)?)
            .await?;
    }
    let kind = ApiResource {
        group: "commerce.lab".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "commerce.lab/v1alpha1".to_owned(),
        kind: "CommercePipeline".to_owned(),
        plural: "commercepipelines".to_owned(),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &namespace, &kind);
    let pipeline: DynamicObject = serde_json::from_value(json!({
        "apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}, "spec": spec(stores, &name),
    }))?;
    api.create(&PostParams::default(), &pipeline).await?;
    Ok(())
}

/// One replica and one partition of each, so that the stores have room for all.
fn spec(stores: &Stores, name: &str) -> Value {
    json!({
        "image": {"registry": "bench.local", "tag": "1.0.0"},
        "postgres": {"secretRef": {"name": format!("{name}-postgres")}},
        "kafka": {
            "bootstrapServers": stores.kafka.bootstrap(),
            "topics": {"prefix": format!("{name}."), "partitions": 1},
        },
        "elasticsearch": {
            "url": stores.elasticsearch.url(),
            "index": {"name": name, "shards": 1, "replicas": 0},
        },
        "redis": {"secretRef": {"name": format!("{name}-redis")}, "keyPrefix": format!("{name}:")},
        "api": {"replicas": 1, "ingress": {"host": format!("{name}.example.com")}},
        "relay": {"replicas": 1},
        "indexer": {"replicas": 1},
    })
}
