//! Documents, from a Kafka record or from PostgreSQL, and the lines of a bulk request that write them.

use std::{borrow::Cow, ops::Range};

use chrono::{DateTime, Utc};
use commerce_core::{
    event::{EventType, OrderEvent},
    order::Status,
};
use rdkafka::Message;
use serde::Deserialize;

use crate::json::Object;

/// Elasticsearch's limit for an `_id`.
const LONGEST_ID: usize = 512;

/// What the indexer has to know about a document beside its lines.
#[derive(Debug)]
pub(crate) struct Encoded<'a> {
    /// Where the two lines, action and source, are in the body.
    pub(crate) lines: Range<usize>,
    pub(crate) user_id: Cow<'a, str>,
    /// When the order was created, where the event is its creation.
    pub(crate) created_at: Option<DateTime<Utc>>,
}

/// Why a record is no order event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the record has no value")]
    NoValue,
    #[error("the value is no text: {0}")]
    Utf8(#[from] std::str::Utf8Error),
    #[error("the value is no order event: {0}")]
    Json(#[from] serde_json::Error),
    #[error("orderId has {0} bytes; it takes 1 to {LONGEST_ID}")]
    OrderId(usize),
    #[error("version is {0}; it takes 1 or more")]
    Version(i64),
}

/// Text of a record, copied only where it has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Which version Elasticsearch lets a write replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VersionType {
    /// A lower one.
    External,
    /// A lower one, or the same.
    ExternalGte,
}

impl VersionType {
    fn as_str(self) -> &'static str {
        match self {
            Self::External => "external",
            Self::ExternalGte => "external_gte",
        }
    }
}

/// The document; the index's mapping names the same fields.
#[derive(Debug)]
pub(crate) struct Document<'a> {
    pub(crate) order_id: &'a str,
    pub(crate) sku_id: i64,
    pub(crate) quantity: i32,
    pub(crate) user_id: &'a str,
    pub(crate) status: Status,
    pub(crate) version: i64,
    pub(crate) correlation_id: &'a str,
    pub(crate) created_at: DateTime<Utc>,
    /// The broker's or the relay's timestamp of the record.
    pub(crate) published_at: Option<DateTime<Utc>>,
    pub(crate) indexed_at: DateTime<Utc>,
    /// Absent where the document was not made from a record.
    pub(crate) origin: Option<Origin<'a>>,
}

/// The record that a document was made from.
#[derive(Debug)]
pub(crate) struct Origin<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

impl Document<'_> {
    /// Appends the lines that write it, action and source, to `body`, and tells where they are.
    pub(crate) fn write(&self, version_type: VersionType, body: &mut Vec<u8>) -> Range<usize> {
        let start = body.len();
        action(body, "index", self.order_id, self.version, version_type);
        let mut document = Object::begin(body);
        document.text("orderId", self.order_id);
        document.number("skuId", self.sku_id);
        document.number("quantity", self.quantity);
        document.text("userId", self.user_id);
        document.text("status", self.status.as_str());
        document.number("version", self.version);
        document.text("correlationId", self.correlation_id);
        document.time("createdAt", self.created_at);
        if let Some(published_at) = self.published_at {
            document.time("publishedAt", published_at);
        }
        document.time("indexedAt", self.indexed_at);
        if let Some(origin) = &self.origin {
            document.text("topic", origin.topic);
            document.number("partition", origin.partition);
            document.number("offset", origin.offset);
        }
        document.end();
        body.push(b'\n');
        start..body.len()
    }
}

/// Appends the line that deletes a document, unless it has a higher version than this, to `body`.
pub(crate) fn write_deletion(id: &str, version: i64, body: &mut Vec<u8>) -> Range<usize> {
    let start = body.len();
    action(body, "delete", id, version, VersionType::ExternalGte);
    start..body.len()
}

/// The order's version decides which of two events is newer, in whatever order they arrive.
fn action(body: &mut Vec<u8>, verb: &'static str, id: &str, version: i64, version_type: VersionType) {
    let mut line = Object::begin(body);
    line.object(verb, |metadata| {
        metadata.text("_id", id);
        metadata.number("version", version);
        metadata.text("version_type", version_type.as_str());
    });
    line.end();
    body.push(b'\n');
}

/// Appends the record's document to `body`, which is left as it was where the record is no order event.
pub(crate) fn encode<'a>(record: &'a impl Message, body: &mut Vec<u8>) -> Result<Encoded<'a>, Malformed> {
    // As one text: each string in it is known to be UTF-8 then.
    let value = std::str::from_utf8(record.payload().ok_or(Malformed::NoValue)?)?;
    let event: OrderEvent<Text<'a>> = serde_json::from_str(value)?;
    let id_length = event.order_id.0.len();
    if !(1..=LONGEST_ID).contains(&id_length) {
        return Err(Malformed::OrderId(id_length));
    }
    if event.version < 1 {
        return Err(Malformed::Version(event.version));
    }
    let document = Document {
        order_id: &event.order_id.0,
        sku_id: event.sku_id,
        quantity: event.quantity,
        user_id: &event.user_id.0,
        status: event.status,
        version: event.version,
        correlation_id: &event.correlation_id.0,
        created_at: event.created_at,
        published_at: published_at(record),
        indexed_at: Utc::now(),
        origin: Some(Origin {
            topic: record.topic(),
            partition: record.partition(),
            offset: record.offset(),
        }),
    };
    Ok(Encoded {
        lines: document.write(VersionType::External, body),
        user_id: event.user_id.0,
        created_at: (event.event_type == EventType::OrderCreated).then_some(event.created_at),
    })
}

/// By the broker's or the relay's clock.
pub(crate) fn published_at(record: &impl Message) -> Option<DateTime<Utc>> {
    record
        .timestamp()
        .to_millis()
        .and_then(DateTime::from_timestamp_millis)
}

#[cfg(test)]
mod tests {
    use rdkafka::{Timestamp, message::OwnedMessage};
    use serde_json::{Value, json};

    use super::*;

    fn record(payload: Option<impl Into<Vec<u8>>>) -> OwnedMessage {
        OwnedMessage::new(
            payload.map(Into::into),
            None,
            "order.created".into(),
            Timestamp::CreateTime(1_500),
            3,
            42,
            None,
        )
    }

    fn event() -> Value {
        json!({"orderId": "17", "skuId": 5, "quantity": 2, "userId": "ann", "status": "CREATED", "version": 1,
               "correlationId": "c-1", "eventType": "ORDER_CREATED", "createdAt": "2026-01-02T03:04:05.678Z"})
    }

    #[test]
    fn an_event_becomes_an_action_with_the_orders_version_and_a_document() {
        let mut body = b"before\n".to_vec();
        let record = record(Some(event().to_string()));
        let encoded = encode(&record, &mut body).unwrap();
        assert_eq!(encoded.lines, 7..body.len());
        assert_eq!(encoded.user_id, "ann");
        assert!(encoded.created_at.is_some());
        let text = String::from_utf8(body).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .skip(1)
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            lines[0],
            json!({"index": {"_id": "17", "version": 1, "version_type": "external"}})
        );
        assert_eq!(lines[1]["publishedAt"], "1970-01-01T00:00:01.500Z");
        assert_eq!(
            (lines[1]["partition"].as_i64(), lines[1]["offset"].as_i64()),
            (Some(3), Some(42))
        );
        assert_eq!(lines[1].get("eventType"), None);
    }

    #[test]
    fn what_is_no_event_leaves_the_body_alone() {
        let mut unknown_field = event();
        unknown_field["colour"] = "red".into();
        let mut version_zero = event();
        version_zero["version"] = 0.into();
        let mut no_id = event();
        no_id["orderId"] = "".into();
        let mut no_text = event().to_string().into_bytes();
        no_text[2] = 0x80;
        for payload in [None, Some(b"{".to_vec()), Some(b"[1]".to_vec()), Some(no_text)]
            .into_iter()
            .chain([unknown_field, version_zero, no_id].map(|value| Some(value.to_string().into_bytes())))
        {
            let mut body = b"before\n".to_vec();
            encode(&record(payload), &mut body).unwrap_err();
            assert_eq!(body, b"before\n");
        }
    }
}
