//! The side of Elasticsearch: documents by the ids of their orders.
//!
//! Ids are keywords, which sort as text. A range of numbers is asked for by a regular expression that matches just these
//! numbers; Elasticsearch finds them next to each other in its dictionary of ids.

use std::{fmt::Write as _, future::Future, time::Duration};

use commerce_core::elasticsearch::{ElasticsearchConfig, Error, body, body_as};
use elasticsearch::{
    CountParts, Elasticsearch, MgetParts, OpenPointInTimeParts, SearchParts,
    indices::{IndicesGetSettingsParts, IndicesRefreshParts},
};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{PATIENCE, order::Order};
use crate::backoff::Backoff;

const TIMEOUT: Duration = Duration::from_secs(30);
/// Elasticsearch's limit for one answer, unless an index says otherwise.
const PAGE: usize = 10_000;
/// How long Elasticsearch keeps a view of the index for the next page.
const KEEP_ALIVE: &str = "5m";
/// How long Elasticsearch remembers the version of a document that was deleted, unless an index says otherwise.
const GC_DELETES: Duration = Duration::from_mins(1);
const READ: &str = "read documents";

/// The documents of an index, or of the one behind an alias.
#[derive(Debug, Clone)]
pub(super) struct Documents {
    client: Elasticsearch,
    index: String,
}

/// A document.
#[derive(Debug, Deserialize)]
pub(super) struct Document<S> {
    #[serde(rename = "_id")]
    pub(super) id: String,
    /// As Elasticsearch counts it: what a write must exceed.
    #[serde(rename = "_version")]
    pub(super) version: i64,
    #[serde(rename = "_source")]
    pub(super) source: S,
    /// Its place, where documents were asked for in an order.
    #[serde(default)]
    sort: Value,
}

/// What a document tells of its order.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Content {
    Order(Order),
    /// Too little, or something else.
    Other(IgnoredAny),
}

/// Only the id of a document.
#[derive(Deserialize)]
struct Id {
    #[serde(rename = "_id")]
    id: String,
    sort: Value,
}

#[derive(Deserialize)]
struct Answer<D> {
    timed_out: bool,
    pit_id: Option<String>,
    hits: Hits<D>,
}

#[derive(Deserialize)]
struct Hits<D> {
    hits: Vec<D>,
}

impl Document<Content> {
    /// Its share in the summary of a block: the same as its order's, if nothing is wrong with it.
    pub(super) fn digest(&self) -> i64 {
        match &self.source {
            Content::Order(order) if order.id == self.id && order.version == self.version => order.digest(),
            Content::Order(order) => !order.digest(),
            Content::Other(_) => 0,
        }
    }

    /// Whether nothing is to be changed about it.
    pub(super) fn is_of(&self, order: &Order) -> bool {
        self.version == order.version && matches!(&self.source, Content::Order(told) if told == order)
    }
}

impl Documents {
    pub(super) fn new(config: &ElasticsearchConfig, index: &str) -> Result<Self, Error> {
        Ok(Self {
            client: config.client(TIMEOUT)?,
            index: index.to_owned(),
        })
    }

    pub(super) fn client(&self) -> &Elasticsearch {
        &self.client
    }

    /// Lets searches find what was written. Fails at once where there is no such index.
    pub(super) async fn refresh(&self) -> Result<(), Error> {
        let index = [self.index.as_str()];
        let indices = self.client.indices();
        let call = indices.refresh(IndicesRefreshParts::Index(&index));
        body("refresh the index", call.send().await).await.map(drop)
    }

    /// How many there are.
    pub(super) async fn count(&self) -> Result<u64, Error> {
        let index = [self.index.as_str()];
        let call = self.client.count(CountParts::Index(&index));
        let answer = body("count documents", call.send().await).await?;
        Ok(answer["count"].as_u64().unwrap_or_default())
    }

    /// How long the version of a deleted document keeps out lower ones.
    pub(super) async fn gc_deletes(&self) -> Result<Duration, Error> {
        let index = [self.index.as_str()];
        let indices = self.client.indices();
        let call = indices.get_settings(IndicesGetSettingsParts::Index(&index));
        let answer = body("read the index settings", call.send().await).await?;
        let index = answer.as_object().and_then(|indices| indices.values().next());
        let setting = index.and_then(|index| index["settings"]["index"]["gc_deletes"].as_str());
        Ok(setting
            .and_then(|text| humantime::parse_duration(text).ok())
            .unwrap_or(GC_DELETES))
    }

    /// The documents of orders with these ids, as searches find them.
    pub(super) async fn between(&self, first: i64, last: i64) -> Result<Vec<Document<Content>>, Error> {
        let mut request = json!({
            "size": PAGE,
            "version": true,
            "track_total_hits": false,
            "query": {"bool": {"filter": numbers(first, last)}},
            "sort": ["orderId"],
        });
        let mut documents = Vec::new();
        loop {
            let index = [self.index.as_str()];
            let answer: Answer<Document<Content>> = self.search(SearchParts::Index(&index), &request).await?;
            let full = answer.hits.hits.len() == PAGE;
            documents.extend(answer.hits.hits);
            match documents.last() {
                Some(last) if full => request["search_after"] = last.sort.clone(),
                _ => return Ok(documents),
            }
        }
    }

    /// The documents that are not of an order up to this one: of higher ids, of other texts, of none.
    pub(super) async fn strays(&self, last: i64) -> Result<Strays<'_>, Error> {
        let index = [self.index.as_str()];
        let open = || {
            let call = self
                .client
                .open_point_in_time(OpenPointInTimeParts::Index(&index));
            async move {
                body(
                    "open a view of the index",
                    call.keep_alive(KEEP_ALIVE).send().await,
                )
                .await
            }
        };
        let view = patiently(open).await?;
        let orders = (last > 0).then(|| numbers(1, last));
        Ok(Strays {
            documents: self,
            request: json!({
                "size": PAGE,
                "track_total_hits": false,
                "_source": false,
                "query": {"bool": {"must_not": Vec::from_iter(orders)}},
                "sort": ["_shard_doc"],
                "pit": {"id": view["id"], "keep_alive": KEEP_ALIVE},
            }),
        })
    }

    /// Those of these documents that exist, as they are, whether searches find them or not.
    pub(super) async fn get(&self, ids: &[&str]) -> Result<Vec<Document<Value>>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            docs: Vec<Got>,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Got {
            Document(Document<Value>),
            Error { error: Value },
            Missing(IgnoredAny),
        }

        let ask = || async {
            let call = self.client.mget(MgetParts::Index(&self.index));
            let answer: Answer = body_as(READ, call.body(json!({"ids": ids})).send().await).await?;
            let documents = answer.docs.into_iter().filter_map(|got| match got {
                Got::Document(document) => Some(Ok(document)),
                Got::Error { error } => Some(Err(unavailable(&error["reason"]))),
                Got::Missing(_) => None,
            });
            documents.collect()
        };
        patiently(ask).await
    }

    async fn search<D: DeserializeOwned>(
        &self,
        parts: SearchParts<'_>,
        request: &Value,
    ) -> Result<Answer<D>, Error> {
        let ask = || {
            let call = self
                .client
                .search(parts.clone())
                .allow_partial_search_results(false);
            async move {
                let answer: Answer<D> = body_as(READ, call.body(request).send().await).await?;
                if answer.timed_out {
                    return Err(unavailable(&"it gave up before it was through".into()));
                }
                Ok(answer)
            }
        };
        patiently(ask).await
    }
}

/// Documents that no order up to a certain one accounts for.
pub(super) struct Strays<'a> {
    documents: &'a Documents,
    request: Value,
}

impl Strays<'_> {
    /// The ids of the next ones; none at the end.
    pub(super) async fn next(&mut self) -> Result<Vec<String>, Error> {
        let answer: Answer<Id> = self.documents.search(SearchParts::None, &self.request).await?;
        if let Some(id) = answer.pit_id {
            self.request["pit"]["id"] = id.into();
        }
        if let Some(last) = answer.hits.hits.last() {
            self.request["search_after"] = last.sort.clone();
        }
        Ok(answer.hits.hits.into_iter().map(|document| document.id).collect())
    }
}

/// Asks again while Elasticsearch is away or has too much to do.
async fn patiently<T, F>(ask: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let (began, mut backoff) = (Instant::now(), Backoff::new());
    loop {
        match ask().await {
            Err(error) if error.is_transient() && began.elapsed() < PATIENCE => backoff.wait().await,
            result => return result,
        }
    }
}

fn unavailable(reason: &Value) -> Error {
    Error::Refused {
        action: READ,
        status: 503,
        reason: reason.as_str().map_or_else(|| reason.to_string(), str::to_owned),
    }
}

/// A query for the order ids from `first`, at least 1, to `last`.
fn numbers(first: i64, last: i64) -> Value {
    json!({"regexp": {"orderId": {"value": expression(first, last), "flags": "NONE"}}})
}

/// A regular expression that matches these numbers: as few alternatives as possible, each a beginning, a range for the next
/// digit and a number of any digits.
fn expression(first: i64, last: i64) -> String {
    let mut expression = String::new();
    let (mut next, last) = (
        u64::try_from(first).unwrap_or(1).max(1),
        u64::try_from(last).unwrap_or(0),
    );
    while next <= last {
        let (mut free, mut size) = (0, 1_u64);
        while let Some(larger) = size.checked_mul(10)
            && next.is_multiple_of(larger)
            && last - next >= larger - 1
        {
            (free, size) = (free + 1, larger);
        }
        let (beginning, digit) = (next / size / 10, next / size % 10);
        let end = (9 - digit).min((last - next + 1) / size - 1) + digit;
        if !expression.is_empty() {
            expression.push('|');
        }
        if beginning > 0 {
            let _ = write!(expression, "{beginning}");
        }
        let _ = write!(expression, "[{digit}-{end}]");
        if free > 0 {
            let _ = write!(expression, "[0-9]{{{free}}}");
        }
        next += (end - digit + 1) * size;
    }
    expression
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_covers_its_numbers_and_no_others() {
        for (first, last, expected) in [
            (1, 9, "[1-9]"),
            (7, 7, "[7-7]"),
            (1, 100, "[1-9]|[1-9][0-9]{1}|10[0-0]"),
            (
                8,
                1234,
                "[8-9]|[1-9][0-9]{1}|[1-9][0-9]{2}|1[0-1][0-9]{2}|12[0-2][0-9]{1}|123[0-4]",
            ),
            (
                5001,
                10_000,
                "500[1-9]|50[1-9][0-9]{1}|5[1-9][0-9]{2}|[6-9][0-9]{3}|1000[0-0]",
            ),
            (120, 119, ""),
        ] {
            assert_eq!(expression(first, last), expected, "{first} to {last}");
        }
        // Elasticsearch takes expressions of 1000 characters.
        assert!(expression(1, 999_999_999_999_998).len() < 1000);
        assert!(expression(111_111_111_111_111, 888_888_888_888_888).len() < 1000);
        assert!(expression(1, i64::MAX).ends_with("922337203685477580[0-7]"));
    }
}
