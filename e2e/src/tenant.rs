//! A second pipeline beside `shop`: its own namespace, database, topics, index, keys and host name, on the same stores.

use std::time::Duration;

use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    cluster::{Cluster, PIPELINES, SECRETS},
    orders::Orders,
    pipeline::Pipeline,
    scenario::Scenario,
    stores::{self, drop_database},
};

const NAMESPACE_GONE: Duration = Duration::from_secs(90);

/// All that belongs to one such pipeline, told apart by `id`.
#[derive(Debug)]
pub struct Tenant {
    pub id: String,
    pub pipeline: Pipeline,
    /// What `spec` says; see [`Tenant::manifest`].
    pub spec: Value,
}

impl Tenant {
    /// Makes the namespace and the Secrets; the pipeline itself is not applied yet. All of it is removed after the scenario.
    pub async fn prepare(scenario: &Scenario, purpose: &str) -> Result<Self> {
        let cluster = &scenario.cluster;
        let id = format!("{purpose}-{}", &Uuid::new_v4().simple().to_string()[..6]);
        let namespace = format!("e2e-{id}");
        cluster.create_namespace(&namespace).await?;
        scenario.involve(&namespace);
        scenario.afterwards(
            format!("removing {namespace}"),
            remove(cluster.clone(), namespace.clone(), id.clone()),
        );

        let postgres = stores::secret(cluster, "stores-postgres", "uri").await?;
        let (server, _) = postgres
            .rsplit_once('/')
            .ok_or_else(|| anyhow!("the uri of stores-postgres has no path"))?;
        let secrets = [
            ("postgres", "uri", format!("{server}/{id}")),
            (
                "redis",
                "uri",
                stores::secret(cluster, "stores-redis", "uri").await?,
            ),
            (
                "elasticsearch",
                "elastic",
                stores::secret(cluster, "stores-elasticsearch", "elastic").await?,
            ),
        ];
        for (name, key, value) in secrets {
            let metadata = json!({"name": name});
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {key: value}});
            cluster.create(SECRETS, &namespace, &secret).await?;
        }
        let image = scenario.shop.object().await?["spec"]["image"].clone();
        let pipeline = Pipeline::new(cluster, &namespace, "second");
        Ok(Self {
            spec: spec(&id, &image),
            id,
            pipeline,
        })
    }

    /// The pipeline as it is applied.
    #[must_use]
    pub fn manifest(&self) -> Value {
        json!({
            "apiVersion": "commerce.lab/v1alpha1",
            "kind": "CommercePipeline",
            "metadata": {"name": self.pipeline.name, "namespace": self.pipeline.namespace},
            "spec": self.spec,
        })
    }

    /// Applies the pipeline as `kubectl apply` does.
    pub async fn apply(&self) -> Result<()> {
        let environment = &self.pipeline.cluster.environment;
        environment
            .run_with_input("kubectl", &["apply", "-f", "-"], &self.manifest().to_string())
            .await
            .map(drop)
    }

    /// Its API through the ingress.
    pub fn orders(&self) -> Result<Orders> {
        Orders::through_ingress(&self.pipeline.cluster, Some(&self.host()))
    }

    #[must_use]
    pub fn host(&self) -> String {
        format!("{}.localhost", self.id)
    }

    /// The names of its topics as they are in Kafka now.
    pub async fn topics(&self) -> Result<Vec<String>> {
        let all = stores::kafka_topics(&self.pipeline.cluster).await?;
        Ok(all
            .into_iter()
            .filter(|topic| topic.starts_with(&format!("{}.", self.id)))
            .collect())
    }

    /// The concrete indices behind its alias, and whether its index template is there.
    pub async fn indices_and_template(&self) -> Result<(Vec<String>, bool)> {
        let cluster = &self.pipeline.cluster;
        let indices = stores::elasticsearch(cluster, &format!("/_alias/{}", self.id)).await?;
        let indices = indices.and_then(|found| Some(found.as_object()?.keys().cloned().collect()));
        let template = stores::elasticsearch(cluster, &format!("/_index_template/{}", self.id)).await?;
        Ok((indices.unwrap_or_default(), template.is_some()))
    }

    /// The tables and views in its database.
    pub async fn tables(&self) -> Result<Vec<String>> {
        let mut database = stores::postgres(&self.pipeline.cluster, Some(&self.id)).await?;
        let query =
            "select table_name::text from information_schema.tables where table_schema = 'public' order by 1";
        Ok(sqlx::query_scalar(query)
            .fetch_all(&mut database.connection)
            .await?)
    }
}

fn spec(id: &str, image: &Value) -> Value {
    let stores = stores::NAMESPACE;
    json!({
        "image": image,
        "catalogue": {"seed": {"skus": 10, "stock": 100_000}},
        "postgres": {"secretRef": {"name": "postgres"}, "poolSize": 4},
        "kafka": {
            "bootstrapServers": format!("stores-kafka.{stores}.svc:9092"),
            "topics": {"prefix": format!("{id}."), "partitions": 2},
        },
        "elasticsearch": {
            "url": format!("http://stores-elasticsearch.{stores}.svc:9200"),
            "auth": {"passwordSecretRef": {"name": "elasticsearch", "key": "elastic"}},
            "index": {"name": id},
        },
        "redis": {"secretRef": {"name": "redis"}},
        "api": {"replicas": 1, "ingress": {"host": format!("{id}.localhost")}},
        "relay": {"replicas": 1},
        "indexer": {"replicas": 1},
    })
}

/// Removes the namespace and the database.
async fn remove(cluster: Cluster, namespace: String, database: String) -> Result<()> {
    let removed = remove_namespace(&cluster, &namespace).await;
    let dropped = drop_database(&cluster, &database).await;
    removed.and(dropped)
}

/// Removes a namespace with pipelines. One that does not let go by itself is made to, and counts as a failure.
pub async fn remove_namespace(cluster: &Cluster, namespace: &str) -> Result<()> {
    let mut removed = cluster.delete_namespace(namespace, NAMESPACE_GONE).await;
    if removed.is_err() {
        for pipeline in cluster.list(PIPELINES, namespace, "").await? {
            let no_finalizers = json!({"metadata": {"finalizers": null}});
            cluster
                .change(
                    PIPELINES,
                    namespace,
                    crate::pipeline::name(&pipeline),
                    &no_finalizers,
                )
                .await?;
        }
        removed = removed.and(cluster.delete_namespace(namespace, NAMESPACE_GONE).await);
    }
    removed
}
