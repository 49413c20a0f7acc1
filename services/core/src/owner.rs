//! Marks in the stores that say whose pipeline they belong to, so that operators which can't see each other's pipelines, as
//! those of two clusters, find out that they were given the same stores.
//!
//! In PostgreSQL the mark is the row of `pipeline_owner`, changed by comparing and setting. In Elasticsearch it is a component
//! template named after the alias, which no index template uses: its creation is atomic, and its `_meta` holds what we like.
//! Kafka has no place for one: a topic's settings are Kafka's own, and a record would be an event to those who read the topic.

use elasticsearch::{
    Elasticsearch,
    cluster::{
        ClusterDeleteComponentTemplateParts, ClusterGetComponentTemplateParts,
        ClusterPutComponentTemplateParts,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};

use crate::{
    elasticsearch::{Error, body, body_if_found},
    postgres::{INVALID_CATALOG_NAME, has_code},
};

/// Where `_meta` holds the mark.
const META: &str = "commerce.lab/owner";
/// SQLSTATE of a table that does not exist.
const UNDEFINED_TABLE: &str = "42P01";

/// A pipeline, as one of some cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow)]
pub struct Owner {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    /// What tells its cluster from others.
    pub cluster: String,
    /// Of the spec that was carried out last. Only PostgreSQL's is kept up to date.
    pub generation: i64,
}

/// What a store says about whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It has no place for a mark: the schema is not there, or older than the mark.
    Unmarkable,
    /// Nobody's.
    Free,
    Of(Owner),
}

impl From<Option<Owner>> for Mark {
    fn from(owner: Option<Owner>) -> Self {
        owner.map_or(Self::Free, Self::Of)
    }
}

/// Whose tables these are.
pub async fn of_schema(options: &PgConnectOptions) -> Result<Mark, sqlx::Error> {
    let mut connection = match PgConnection::connect_with(options).await {
        Err(error) if has_code(&error, INVALID_CATALOG_NAME) => return Ok(Mark::Unmarkable),
        other => other?,
    };
    let query = "select uid, namespace, name, cluster, generation from pipeline_owner";
    let found = sqlx::query_as(query).fetch_optional(&mut connection).await;
    connection.close().await?;
    match found {
        Err(error) if has_code(&error, UNDEFINED_TABLE) => Ok(Mark::Unmarkable),
        other => Ok(Mark::from(other?)),
    }
}

/// Marks the tables, if the mark still is `found`; false where it is not.
pub async fn mark_schema(
    options: &PgConnectOptions,
    owner: &Owner,
    found: Option<&Owner>,
) -> Result<bool, sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    let query = match found {
        None => sqlx::query(
            "insert into pipeline_owner (uid, namespace, name, cluster, generation)
             values ($1, $2, $3, $4, $5) on conflict do nothing",
        ),
        Some(_) => sqlx::query(
            "update pipeline_owner
                set uid = $1, namespace = $2, name = $3, cluster = $4, generation = $5, marked_at = now()
              where uid = $6 and generation = $7",
        ),
    };
    let query = query
        .bind(&owner.uid)
        .bind(&owner.namespace)
        .bind(&owner.name)
        .bind(&owner.cluster)
        .bind(owner.generation);
    let query = match found {
        None => query,
        Some(found) => query.bind(&found.uid).bind(found.generation),
    };
    let done = query.execute(&mut connection).await?;
    connection.close().await?;
    Ok(done.rows_affected() == 1)
}

/// Takes the mark off, if it is this pipeline's.
pub async fn unmark_schema(options: &PgConnectOptions, uid: &str) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    let query = sqlx::query("delete from pipeline_owner where uid = $1");
    query.bind(uid).execute(&mut connection).await?;
    connection.close().await
}

/// Whose index this is.
pub async fn of_index(client: &Elasticsearch, alias: &str) -> Result<Mark, Error> {
    let name = template(alias);
    let parts = ClusterGetComponentTemplateParts::Name(&[&name]);
    let answer = client.cluster().get_component_template(parts).send().await;
    let action = "read the owner of the index";
    let Some(found) = body_if_found(action, answer).await? else {
        return Ok(Mark::Free);
    };
    let owner = &found["component_templates"][0]["component_template"]["_meta"][META];
    let owner = serde_json::from_value(owner.clone());
    owner.map(Mark::Of).map_err(|_| Error::Refused {
        action,
        status: 200,
        reason: format!("the component template {name} does not name a pipeline: somebody else has made it"),
    })
}

/// Marks the index; false where it is not unmarked any more, and `new` says that it was.
pub async fn mark_index(
    client: &Elasticsearch,
    alias: &str,
    owner: &Owner,
    new: bool,
) -> Result<bool, Error> {
    let name = template(alias);
    let answer = client
        .cluster()
        .put_component_template(ClusterPutComponentTemplateParts::Name(&name))
        .create(new)
        .body(json!({"template": {}, "_meta": {META: owner}}))
        .send()
        .await;
    match body("mark the owner of the index", answer).await {
        Err(Error::Refused {
            status: 400, reason, ..
        }) if new && reason.contains("already exists") => Ok(false),
        other => other.map(|_| true),
    }
}

/// Takes the mark off, if it is this pipeline's.
pub async fn unmark_index(client: &Elasticsearch, alias: &str, uid: &str) -> Result<(), Error> {
    if !matches!(of_index(client, alias).await?, Mark::Of(owner) if owner.uid == uid) {
        return Ok(());
    }
    remove_from_index(client, alias).await
}

/// Takes whatever mark there is off an index that is gone.
pub async fn remove_from_index(client: &Elasticsearch, alias: &str) -> Result<(), Error> {
    let name = template(alias);
    let parts = ClusterDeleteComponentTemplateParts::Name(&name);
    let answer = client.cluster().delete_component_template(parts).send().await;
    body_if_found("take the owner off the index", answer)
        .await
        .map(drop)
}

fn template(alias: &str) -> String {
    format!("{alias}-owner")
}
