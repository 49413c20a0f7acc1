//! Asking Elasticsearch.

use std::time::Duration;

use axum::body::Bytes;
use commerce_core::elasticsearch as es;
use elasticsearch::{Elasticsearch, SearchParts};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Page, Position, Query};
use crate::{orders::read::Order, page};

/// How long Elasticsearch may look before it gives up by itself.
const TIMEOUT: &str = "2s";
/// How long to wait for its answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Unavailable(es::Error),
    #[error("Elasticsearch did not answer in time")]
    TimedOut,
    #[error("{0}")]
    Elasticsearch(es::Error),
    #[error("an answer of Elasticsearch is not as expected: {0}")]
    Answer(#[from] serde_json::Error),
}

#[derive(Debug)]
pub struct Index {
    client: Elasticsearch,
    alias: String,
}

#[derive(Deserialize)]
struct Answer {
    timed_out: bool,
    hits: Hits,
}

#[derive(Deserialize)]
struct Hits {
    hits: Vec<Hit>,
}

#[derive(Deserialize)]
struct Hit {
    #[serde(rename = "_source")]
    order: Order,
    sort: Position,
}

impl From<es::Error> for Error {
    fn from(error: es::Error) -> Self {
        match &error {
            es::Error::Transport { source, .. } if source.is_timeout() => Self::TimedOut,
            // 404: the operator has not made the index yet.
            _ if error.is_transient() || error.status() == Some(404) => Self::Unavailable(error),
            _ => Self::Elasticsearch(error),
        }
    }
}

impl Index {
    pub fn new(client: Elasticsearch, alias: String) -> Self {
        Self { client, alias }
    }

    /// One page straight from the index.
    pub async fn find(&self, query: &Query) -> Result<Page, Error> {
        let parts = [self.alias.as_str()];
        let call = self
            .client
            .search(SearchParts::Index(&parts))
            .allow_partial_search_results(false);
        let answer = es::body("search orders", call.body(request(query)).send().await).await?;
        let Answer {
            timed_out,
            hits: Hits { mut hits },
        } = serde_json::from_value(answer)?;
        if timed_out {
            return Err(Error::TimedOut);
        }
        // One more than the page holds was asked for, to know whether another page follows.
        let more = hits.len() > usize::from(query.limit);
        hits.truncate(usize::from(query.limit));
        let next = hits.last().filter(|_| more).map(|last| page::cursor(&last.sort));
        let orders: Vec<_> = hits.into_iter().map(|hit| hit.order).collect();
        Ok(Page {
            body: Bytes::from(serde_json::to_vec(&orders)?),
            next,
        })
    }
}

fn request(query: &Query) -> Value {
    let mut filters = Vec::new();
    let mut term = |field: &str, value: Option<Value>| {
        filters.extend(value.map(|value| json!({"term": {field: value}})));
    };
    term("userId", query.user_id.as_deref().map(Value::from));
    term("skuId", query.sku_id.map(Value::from));
    term("correlationId", query.correlation_id.as_deref().map(Value::from));
    term("status", query.status.map(|status| status.as_str().into()));
    if query.created_from.is_some() || query.created_to.is_some() {
        let mut range = json!({"format": "epoch_millis"});
        if let Some(from) = query.created_from {
            range["gte"] = from.into();
        }
        if let Some(to) = query.created_to {
            range["lt"] = to.into();
        }
        filters.push(json!({"range": {"createdAt": range}}));
    }
    let mut request = json!({
        "size": u32::from(query.limit) + 1,
        "query": {"bool": {"filter": filters}},
        // The id makes the order total, so that a cursor stands for exactly one place.
        "sort": [{"createdAt": "desc"}, {"orderId": "desc"}],
        "track_total_hits": false,
        "timeout": TIMEOUT,
    });
    if let Some(after) = &query.after {
        request["search_after"] = json!(after);
    }
    request
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn every_filter_narrows_and_a_cursor_goes_on_after_its_order() {
        let query = Query {
            user_id: Some("ada".to_owned()),
            sku_id: Some(7),
            correlation_id: None,
            status: Some(commerce_core::order::Status::Created),
            created_from: Some(1),
            created_to: Some(9),
            limit: 20,
            after: Some((5, "42".to_owned())),
        };
        assert_eq!(
            request(&query),
            json!({
                "size": 21,
                "query": {"bool": {"filter": [
                    {"term": {"userId": "ada"}},
                    {"term": {"skuId": 7}},
                    {"term": {"status": "CREATED"}},
                    {"range": {"createdAt": {"format": "epoch_millis", "gte": 1, "lt": 9}}},
                ]}},
                "sort": [{"createdAt": "desc"}, {"orderId": "desc"}],
                "track_total_hits": false,
                "timeout": "2s",
                "search_after": [5, "42"],
            })
        );
    }
}
