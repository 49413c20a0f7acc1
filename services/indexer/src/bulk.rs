//! One bulk request, and what its answer means for each document.

use std::time::Duration;

use bytes::Bytes;
use commerce_core::elasticsearch::{ElasticsearchConfig, Error};
use elasticsearch::{
    Elasticsearch,
    http::{Method, headers::HeaderMap},
};
use serde::{Deserialize, Serialize};

use crate::problem::causes;

/// How long Elasticsearch may take for one request. One that takes longer is sent again, which is harmless.
const TIMEOUT: Duration = Duration::from_secs(30);
/// As much of an answer that is not JSON as goes into a message.
const LONGEST_EXCERPT: usize = 200;

/// Sends bulk requests to the alias, or to an index.
#[derive(Debug, Clone)]
pub(crate) struct BulkClient {
    client: Elasticsearch,
    path: String,
    require_alias: bool,
}

/// What became of one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is in the index or, where it was to be deleted, it is not.
    Done,
    /// The index has this version of the order or a newer one.
    Conflict,
    /// Not now; the text says why.
    Retry(String),
    /// Never, as it is; the text says why.
    Rejected(String),
}

/// What became of the whole request, if not an outcome for each document.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The same request may succeed later.
    #[error("{0}")]
    Transient(String),
    /// It may succeed later, or be more than Elasticsearch ever takes at once: both are answered with 429.
    #[error("{0}")]
    TooMuch(String),
    /// Elasticsearch wants no such request: it is too large or has something that can't be read.
    #[error("{0}")]
    Refused(String),
}

#[derive(Serialize)]
struct Query {
    require_alias: bool,
    filter_path: &'static str,
}

/// Only what is needed of the answer.
const FILTER: &str = "items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason";

#[derive(Deserialize)]
struct Answer {
    items: Vec<AnswerItem>,
}

#[derive(Deserialize)]
struct AnswerItem {
    #[serde(alias = "delete")]
    index: ItemResult,
}

#[derive(Deserialize)]
struct ItemResult {
    status: u16,
    error: Option<ItemError>,
}

#[derive(Deserialize)]
struct ItemError {
    r#type: String,
    #[serde(default)]
    reason: String,
    caused_by: Option<Cause>,
}

#[derive(Deserialize)]
struct Cause {
    reason: Option<String>,
}

impl BulkClient {
    /// Writes to the alias. It must be one: an index must never come about by writing to it.
    pub(crate) fn new(config: &ElasticsearchConfig) -> Result<Self, Error> {
        Ok(Self {
            client: config.client(TIMEOUT)?,
            path: format!("/{}/_bulk", config.index),
            require_alias: true,
        })
    }

    /// Writes to an index that is known to exist.
    pub(crate) fn to_index(config: &ElasticsearchConfig, index: &str) -> Result<Self, Error> {
        Ok(Self {
            client: config.client(TIMEOUT)?,
            path: format!("/{index}/_bulk"),
            require_alias: false,
        })
    }

    /// Sends a body with `count` documents; the outcomes are in their order.
    pub(crate) async fn send(&self, body: Bytes, count: usize) -> Result<Vec<Outcome>, Failure> {
        let query = Query {
            require_alias: self.require_alias,
            filter_path: FILTER,
        };
        let response = self
            .client
            .send(
                Method::Post,
                &self.path,
                HeaderMap::new(),
                Some(&query),
                Some(body),
                None,
            )
            .await
            .map_err(|error| Failure::Transient(format!("sending a bulk request: {}", causes(&error))))?;
        let status = response.status_code().as_u16();
        let answer = response.bytes().await.map_err(|error| {
            Failure::Transient(format!(
                "reading the answer to a bulk request: {}",
                causes(&error)
            ))
        })?;
        read(status, &answer, count)
    }
}

fn read(status: u16, answer: &[u8], count: usize) -> Result<Vec<Outcome>, Failure> {
    let excerpt = || {
        String::from_utf8_lossy(answer)
            .chars()
            .take(LONGEST_EXCERPT)
            .collect::<String>()
    };
    match status {
        200 => {}
        400 | 413 => {
            return Err(Failure::Refused(format!(
                "bulk request refused: {status} {}",
                excerpt()
            )));
        }
        _ => {
            let problem = format!("bulk request answered with {status} {}", excerpt());
            return Err(if status == 429 {
                Failure::TooMuch(problem)
            } else {
                Failure::Transient(problem)
            });
        }
    }
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|error| Failure::Transient(format!("answer to a bulk request: {error}: {}", excerpt())))?;
    if answer.items.len() != count {
        let items = answer.items.len();
        return Err(Failure::Transient(format!(
            "answer to a bulk request of {count} documents is about {items}"
        )));
    }
    Ok(answer
        .items
        .into_iter()
        .map(|item| item.index.outcome())
        .collect())
}

impl ItemResult {
    /// Client errors that come from the state of the cluster (a missing alias, a read-only index, credentials) pass;
    /// those that come from the document do not.
    fn outcome(self) -> Outcome {
        match (self.status, &self.error) {
            // 404 without an error: there was nothing to delete.
            (200..300 | 404, None) => Outcome::Done,
            (409, _) => Outcome::Conflict,
            (400, Some(error)) if !error.is_about_the_index() => Outcome::Rejected(error.text()),
            (413, _) => Outcome::Rejected(self.text()),
            _ => Outcome::Retry(self.text()),
        }
    }

    fn text(&self) -> String {
        self.error
            .as_ref()
            .map_or_else(|| format!("status {}", self.status), ItemError::text)
    }
}

impl ItemError {
    /// Elasticsearch says 400 to these too, although no document is to blame.
    fn is_about_the_index(&self) -> bool {
        self.r#type == "index_closed_exception"
            || (self.r#type == "illegal_argument_exception"
                && self.reason.contains("no write index is defined"))
    }

    fn text(&self) -> String {
        match self.caused_by.as_ref().and_then(|cause| cause.reason.as_ref()) {
            Some(cause) => format!("{}: {}: {cause}", self.r#type, self.reason),
            None => format!("{}: {}", self.r#type, self.reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome(status: u16, kind: &str, reason: &str) -> Outcome {
        let body =
            json!({"items": [{"index": {"status": status, "error": {"type": kind, "reason": reason}}}]});
        read(200, body.to_string().as_bytes(), 1).unwrap().remove(0)
    }

    #[test]
    fn only_what_the_document_is_to_blame_for_is_rejected() {
        assert_eq!(
            outcome(409, "version_conflict_engine_exception", ""),
            Outcome::Conflict
        );
        for (status, kind, reason) in [
            (
                400,
                "document_parsing_exception",
                "failed to parse field [quantity]",
            ),
            (
                400,
                "strict_dynamic_mapping_exception",
                "introducing [x] is not allowed",
            ),
            (
                400,
                "illegal_argument_exception",
                "Document contains at least one immense term",
            ),
            (413, "content_too_large", ""),
        ] {
            assert!(
                matches!(outcome(status, kind, reason), Outcome::Rejected(_)),
                "{status} {kind}"
            );
        }
        for (status, kind, reason) in [
            (429, "es_rejected_execution_exception", ""),
            (503, "unavailable_shards_exception", ""),
            (
                404,
                "index_not_found_exception",
                "[require_alias] request flag is [true] and [orders] is not an alias",
            ),
            (
                403,
                "cluster_block_exception",
                "index [orders-1] blocked by: [FORBIDDEN/8/index write (api)];",
            ),
            (
                403,
                "security_exception",
                "action [indices:data/write/bulk] is unauthorized",
            ),
            (400, "index_closed_exception", "closed"),
            (
                400,
                "illegal_argument_exception",
                "no write index is defined for alias [orders]",
            ),
        ] {
            assert!(
                matches!(outcome(status, kind, reason), Outcome::Retry(_)),
                "{status} {kind}"
            );
        }
    }

    #[test]
    fn an_answer_that_is_not_about_every_document_tells_nothing() {
        let one = json!({"items": [{"index": {"status": 201}}]}).to_string();
        assert_eq!(read(200, one.as_bytes(), 1).unwrap(), [Outcome::Done]);
        assert!(matches!(read(200, one.as_bytes(), 2), Err(Failure::Transient(_))));
        assert!(matches!(read(200, b"<html>", 1), Err(Failure::Transient(_))));
        assert!(matches!(read(503, b"", 1), Err(Failure::Transient(_))));
        assert!(matches!(read(429, b"", 1), Err(Failure::TooMuch(_))));
        assert!(matches!(read(413, b"", 1), Err(Failure::Refused(_))));
    }
}
