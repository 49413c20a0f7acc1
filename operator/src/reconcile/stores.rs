//! The stores behind a pipeline, as far as the operator touches them: whether they answer, and the topics, the index and the
//! schema that the pipeline needs. What a topic or an index looks like is `commerce_core`'s business.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use commerce_core::{
    elasticsearch::Client,
    index::{self, Found, IndexState},
    owner::{self, Mark, Owner},
    postgres,
    tls::advise,
    topics::{self, Topic, TopicState},
};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::{
    error::{chain, root},
    validate::{Elasticsearch, Kafka, Pipeline, Redis, RedisServer, tls},
};

/// How long a store may take to answer before it counts as away.
const TIMEOUT: Duration = Duration::from_secs(5);
/// SQLSTATE of a database that does not exist. The migration creates it.
const NO_DATABASE: &str = "3D000";

/// A store that does not answer, or does not let us in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Away {
    pub store: &'static str,
    /// The part of the spec that says where it is.
    pub field: &'static str,
    pub problem: String,
}

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.store, self.field, self.problem)
    }
}

/// What the reconciler does in the stores. Errors are told to people, so they are text; they hold no credentials.
#[async_trait]
pub trait Stores: fmt::Debug + Send + Sync {
    /// The stores that are away.
    async fn away(&self, pipeline: &Pipeline) -> Vec<Away>;
    /// The version of the schema, and the one that the services need.
    async fn schema_version(&self, postgres: &PgConnectOptions) -> Result<(i64, i64), String>;
    /// The topics that exist.
    async fn read_topics(&self, kafka: &Kafka) -> Result<BTreeMap<String, Topic>, String>;
    /// Makes the topics what they should be.
    async fn ensure_topics(&self, kafka: &Kafka) -> Result<Vec<TopicState>, String>;
    /// What there is of template, index and alias.
    async fn read_index(&self, elasticsearch: &Elasticsearch) -> Result<Found, String>;
    /// Makes template, index and alias what they should be.
    async fn ensure_index(&self, elasticsearch: &Elasticsearch) -> Result<IndexState, String>;
    /// Lets the alias lead to an index that was filled beside live events; false where it has missed one.
    async fn promote_index(&self, elasticsearch: &Elasticsearch, index: &str) -> Result<bool, String>;
    /// Deletes one concrete index with all its documents.
    async fn delete_index(&self, elasticsearch: &Elasticsearch, index: &str) -> Result<(), String>;
    /// How many documents a concrete index has; `None` where there is none of that name.
    async fn documents(&self, elasticsearch: &Elasticsearch, index: &str) -> Result<Option<u64>, String>;
    /// Whose tables these are.
    async fn schema_mark(&self, postgres: &PgConnectOptions) -> Result<Mark, String>;
    /// Marks the tables, if the mark still is `found`; false where it is not.
    async fn mark_schema(
        &self,
        postgres: &PgConnectOptions,
        owner: &Owner,
        found: Option<&Owner>,
    ) -> Result<bool, String>;
    /// Takes the mark off the tables, if it is this pipeline's.
    async fn unmark_schema(&self, postgres: &PgConnectOptions, uid: &str) -> Result<(), String>;
    /// Whose index this is.
    async fn index_mark(&self, elasticsearch: &Elasticsearch) -> Result<Mark, String>;
    /// Marks the index. False where it was to be `new` and is not.
    async fn mark_index(
        &self,
        elasticsearch: &Elasticsearch,
        owner: &Owner,
        new: bool,
    ) -> Result<bool, String>;
    /// Takes the mark off the index, if it is this pipeline's.
    async fn unmark_index(&self, elasticsearch: &Elasticsearch, uid: &str) -> Result<(), String>;
    /// Removes the topics with all their events.
    async fn remove_topics(&self, kafka: &Kafka) -> Result<(), String>;
    /// Removes alias, indices and template with all their documents.
    async fn remove_index(&self, elasticsearch: &Elasticsearch) -> Result<(), String>;
    /// Removes the tables with all their rows.
    async fn remove_schema(&self, postgres: &PgConnectOptions) -> Result<(), String>;
}

/// The stores over the network.
#[derive(Clone, Copy, Debug, Default)]
pub struct Remote;

#[async_trait]
impl Stores for Remote {
    async fn away(&self, pipeline: &Pipeline) -> Vec<Away> {
        let (postgres, kafka, elasticsearch, redis) = tokio::join!(
            limited(postgres_answers(&pipeline.postgres.connect)),
            limited(async {
                topics::partitions(&pipeline.kafka.connect)
                    .await
                    .map(drop)
                    .map_err(|e| chain(&e))
            }),
            limited(elasticsearch_answers(&pipeline.elasticsearch)),
            limited(redis_answers(&pipeline.redis)),
        );
        let redis_field = match pipeline.redis.server {
            RedisServer::Uri(_) => "redis.secretRef",
            RedisServer::Host { .. } => "redis.host",
        };
        [
            ("PostgreSQL", "postgres.secretRef", postgres, tls::POSTGRES),
            ("Kafka", "kafka.bootstrapServers", kafka, tls::KAFKA),
            (
                "Elasticsearch",
                "elasticsearch.url",
                elasticsearch,
                tls::ELASTICSEARCH,
            ),
            ("Redis", redis_field, redis, tls::REDIS),
        ]
        .into_iter()
        .filter_map(|(store, field, result, names)| {
            Some(Away {
                store,
                field,
                problem: advise(result.err()?, &names),
            })
        })
        .collect()
    }

    async fn schema_version(&self, options: &PgConnectOptions) -> Result<(i64, i64), String> {
        let found = limited(async {
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .connect_lazy_with(options.clone());
            let version = postgres::schema_version(&pool)
                .await
                .map_err(|error| chain(&error));
            pool.close().await;
            version
        });
        Ok((found.await?, postgres::latest_version()))
    }

    async fn read_topics(&self, kafka: &Kafka) -> Result<BTreeMap<String, Topic>, String> {
        topics::read(&kafka.connect, &kafka.topics)
            .await
            .map_err(|error| chain(&error))
    }

    async fn ensure_topics(&self, kafka: &Kafka) -> Result<Vec<TopicState>, String> {
        topics::ensure(&kafka.connect, &kafka.topics)
            .await
            .map_err(|error| chain(&error))
    }

    async fn read_index(&self, elasticsearch: &Elasticsearch) -> Result<Found, String> {
        let client = search_client(elasticsearch)?;
        index::read(&client, &elasticsearch.index)
            .await
            .map_err(|error| chain(&error))
    }

    async fn ensure_index(&self, elasticsearch: &Elasticsearch) -> Result<IndexState, String> {
        let client = search_client(elasticsearch)?;
        index::ensure(&client, &elasticsearch.index)
            .await
            .map_err(|error| chain(&error))
    }

    async fn promote_index(&self, elasticsearch: &Elasticsearch, index: &str) -> Result<bool, String> {
        let client = search_client(elasticsearch)?;
        index::promote(&client, &elasticsearch.index.name, index)
            .await
            .map_err(|error| chain(&error))
    }

    async fn delete_index(&self, elasticsearch: &Elasticsearch, index: &str) -> Result<(), String> {
        let client = search_client(elasticsearch)?;
        index::delete_index(&client, index)
            .await
            .map_err(|error| chain(&error))
    }

    async fn documents(&self, elasticsearch: &Elasticsearch, index: &str) -> Result<Option<u64>, String> {
        let client = search_client(elasticsearch)?;
        index::count(&client, index).await.map_err(|error| chain(&error))
    }

    async fn schema_mark(&self, options: &PgConnectOptions) -> Result<Mark, String> {
        limited(async { owner::of_schema(options).await.map_err(|error| chain(&error)) }).await
    }

    async fn mark_schema(
        &self,
        options: &PgConnectOptions,
        owner: &Owner,
        found: Option<&Owner>,
    ) -> Result<bool, String> {
        let marked = owner::mark_schema(options, owner, found).await;
        marked.map_err(|error| chain(&error))
    }

    async fn unmark_schema(&self, options: &PgConnectOptions, uid: &str) -> Result<(), String> {
        let unmarked = owner::unmark_schema(options, uid);
        limited(async { unmarked.await.map_err(|error| chain(&error)) }).await
    }

    async fn index_mark(&self, elasticsearch: &Elasticsearch) -> Result<Mark, String> {
        let client = search_client(elasticsearch)?;
        let mark = owner::of_index(&client, &elasticsearch.index.name).await;
        mark.map_err(|error| chain(&error))
    }

    async fn mark_index(
        &self,
        elasticsearch: &Elasticsearch,
        owner: &Owner,
        new: bool,
    ) -> Result<bool, String> {
        let client = search_client(elasticsearch)?;
        let marked = owner::mark_index(&client, &elasticsearch.index.name, owner, new).await;
        marked.map_err(|error| chain(&error))
    }

    async fn unmark_index(&self, elasticsearch: &Elasticsearch, uid: &str) -> Result<(), String> {
        let client = search_client(elasticsearch)?;
        let unmarked = owner::unmark_index(&client, &elasticsearch.index.name, uid).await;
        unmarked.map_err(|error| chain(&error))
    }

    async fn remove_topics(&self, kafka: &Kafka) -> Result<(), String> {
        topics::delete(&kafka.connect)
            .await
            .map_err(|error| chain(&error))
    }

    async fn remove_index(&self, elasticsearch: &Elasticsearch) -> Result<(), String> {
        let client = search_client(elasticsearch)?;
        let alias = &elasticsearch.index.name;
        let deleted = index::delete(&client, alias).await;
        deleted.map_err(|error| chain(&error))?;
        let unmarked = owner::remove_from_index(&client, alias).await;
        unmarked.map_err(|error| chain(&error))
    }

    async fn remove_schema(&self, options: &PgConnectOptions) -> Result<(), String> {
        limited(async {
            match postgres::drop_schema(options).await {
                Err(error) if is_missing_database(&error) => Ok(()),
                other => other.map_err(|error| chain(&error)),
            }
        })
        .await
    }
}

fn search_client(elasticsearch: &Elasticsearch) -> Result<Client, String> {
    let client = elasticsearch.connect.client(TIMEOUT);
    client.map_err(|error| chain(&error))
}

async fn limited<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = |_| Err(format!("no answer within {} s", TIMEOUT.as_secs()));
    tokio::time::timeout(TIMEOUT, work).await.unwrap_or_else(late)
}

async fn postgres_answers(options: &PgConnectOptions) -> Result<(), String> {
    use sqlx::Connection as _;
    match sqlx::PgConnection::connect_with(options).await {
        Ok(connection) => connection.close().await.map_err(|error| root(&error)),
        Err(error) if is_missing_database(&error) => Ok(()),
        Err(error) => Err(root(&error)),
    }
}

fn is_missing_database(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| code == NO_DATABASE)
}

/// Asks for the alias, since that is allowed with the least rights that the pipeline needs.
async fn elasticsearch_answers(elasticsearch: &Elasticsearch) -> Result<(), String> {
    let client = elasticsearch
        .connect
        .client(TIMEOUT)
        .map_err(|error| root(&error))?;
    index::active_index(&client, &elasticsearch.index.name)
        .await
        .map(drop)
        .map_err(|error| root(&error))
}

async fn redis_answers(redis: &Redis) -> Result<(), String> {
    let mut connection = redis.connect.connection(TIMEOUT).map_err(|error| root(&error))?;
    redis::cmd("PING")
        .query_async::<()>(&mut connection)
        .await
        .map_err(|error| root(&error))
}
