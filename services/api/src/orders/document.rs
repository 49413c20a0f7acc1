//! What the index knows of one order.

use chrono::{DateTime, Utc};
use commerce_core::elasticsearch as es;
use elasticsearch::{Elasticsearch, GetParts, SearchParts};
use serde::Deserialize;
use serde_json::{Value, json};

/// How long Elasticsearch may look before it gives up by itself.
const TIMEOUT: &str = "2s";

/// Asks the index behind an alias for single documents.
#[derive(Debug)]
pub struct Documents {
    client: Elasticsearch,
    alias: String,
}

/// What the indexer wrote about an order, and from which record.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// Of the order.
    pub version: i64,
    /// The record's timestamp; like what follows, absent where the document was not made from a record.
    pub published_at: Option<DateTime<Utc>>,
    pub indexed_at: Option<DateTime<Utc>>,
    pub topic: Option<String>,
    pub partition: Option<i32>,
    pub offset: Option<i64>,
}

/// How far an order has come in the index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Indexed {
    /// As the index holds it, whether searches find it or not.
    pub written: Option<Document>,
    /// The version of the order that searches find.
    pub searchable: Option<i64>,
}

impl Documents {
    /// The client limits how long a call takes.
    #[must_use]
    pub fn new(client: Elasticsearch, alias: String) -> Self {
        Self { client, alias }
    }

    /// How far this version of an order has come; `None` where the index can't be asked.
    pub async fn of(&self, order_id: &str, version: i64) -> Option<Indexed> {
        self.look_up(order_id, version)
            .await
            .map_err(|error| tracing::warn!(%error, "the index does not tell how far an order has come"))
            .ok()
    }

    async fn look_up(&self, order_id: &str, version: i64) -> Result<Indexed, Error> {
        let found = self.found(order_id).await?;
        let searchable = found.as_ref().map(|document| document.version);
        let written = if searchable >= Some(version) {
            found
        } else {
            self.written(order_id).await?
        };
        Ok(Indexed { written, searchable })
    }

    /// The document as searches find it.
    async fn found(&self, order_id: &str) -> Result<Option<Document>, Error> {
        let index = [self.alias.as_str()];
        let call = self
            .client
            .search(SearchParts::Index(&index))
            .allow_partial_search_results(false)
            .body(json!({"query": {"ids": {"values": [order_id]}}, "timeout": TIMEOUT}));
        let mut answer = es::body("search an order", call.send().await).await?;
        if answer["timed_out"] == true {
            return Err(Error::TimedOut);
        }
        document(answer.pointer_mut("/hits/hits/0/_source"))
    }

    /// The document as it is.
    async fn written(&self, order_id: &str) -> Result<Option<Document>, Error> {
        let call = self.client.get(GetParts::IndexId(&self.alias, order_id));
        let answer = es::body_if_found("read a document", call.send().await).await?;
        document(answer.unwrap_or_default().get_mut("_source"))
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Elasticsearch(#[from] es::Error),
    #[error("Elasticsearch did not look everywhere in time")]
    TimedOut,
    #[error("a document is not as expected: {0}")]
    Document(#[from] serde_json::Error),
}

fn document(source: Option<&mut Value>) -> Result<Option<Document>, Error> {
    Ok(source
        .map(|source| serde_json::from_value(source.take()))
        .transpose()?)
}
