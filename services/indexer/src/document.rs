//! From a Kafka record to the lines of a bulk request.

use std::{io::Write as _, ops::Range};

use chrono::{DateTime, Utc};
use commerce_core::{
    event::{EventType, OrderEvent},
    order::Status,
};
use rdkafka::{Message as _, message::OwnedMessage};
use serde::Serialize;

/// Elasticsearch's limit for an `_id`.
const LONGEST_ID: usize = 512;

/// What the indexer has to know about a document beside its lines.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// Where the two lines, action and source, are in the body.
    pub(crate) lines: Range<usize>,
    pub(crate) user_id: String,
    /// When the order was created, where the event is its creation.
    pub(crate) created_at: Option<DateTime<Utc>>,
}

/// Why a record is no order event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the record has no value")]
    NoValue,
    #[error("the value is no order event: {0}")]
    Json(#[from] serde_json::Error),
    #[error("orderId has {0} bytes; it takes 1 to {LONGEST_ID}")]
    OrderId(usize),
    #[error("version is {0}; it takes 1 or more")]
    Version(i64),
}

#[derive(Serialize)]
struct Action<'a> {
    index: ActionMetadata<'a>,
}

/// The order's version decides which of two events is newer, in whatever order they arrive.
#[derive(Serialize)]
struct ActionMetadata<'a> {
    #[serde(rename = "_id")]
    id: &'a str,
    version: i64,
    version_type: &'static str,
}

/// The document; the index's mapping names the same fields.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    order_id: &'a str,
    sku_id: i64,
    quantity: i32,
    user_id: &'a str,
    status: Status,
    version: i64,
    correlation_id: &'a str,
    created_at: DateTime<Utc>,
    /// The broker's or the relay's timestamp of the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    published_at: Option<DateTime<Utc>>,
    indexed_at: DateTime<Utc>,
    topic: &'a str,
    partition: i32,
    offset: i64,
}

/// Appends the record's document to `body`, which is left as it was where the record is no order event.
pub(crate) fn encode(record: &OwnedMessage, body: &mut Vec<u8>) -> Result<Encoded, Malformed> {
    let event: OrderEvent = serde_json::from_slice(record.payload().ok_or(Malformed::NoValue)?)?;
    if !(1..=LONGEST_ID).contains(&event.order_id.len()) {
        return Err(Malformed::OrderId(event.order_id.len()));
    }
    if event.version < 1 {
        return Err(Malformed::Version(event.version));
    }
    let start = body.len();
    let action = ActionMetadata {
        id: &event.order_id,
        version: event.version,
        version_type: "external",
    };
    let document = Document {
        order_id: &event.order_id,
        sku_id: event.sku_id,
        quantity: event.quantity,
        user_id: &event.user_id,
        status: event.status,
        version: event.version,
        correlation_id: &event.correlation_id,
        created_at: event.created_at,
        published_at: record
            .timestamp()
            .to_millis()
            .and_then(DateTime::from_timestamp_millis),
        indexed_at: Utc::now(),
        topic: record.topic(),
        partition: record.partition(),
        offset: record.offset(),
    };
    let written = serde_json::to_writer(&mut *body, &Action { index: action })
        .and_then(|()| body.write_all(b"\n").map_err(serde_json::Error::io))
        .and_then(|()| serde_json::to_writer(&mut *body, &document))
        .and_then(|()| body.write_all(b"\n").map_err(serde_json::Error::io));
    if let Err(error) = written {
        body.truncate(start);
        return Err(error.into());
    }
    Ok(Encoded {
        lines: start..body.len(),
        user_id: event.user_id,
        created_at: (event.event_type == EventType::OrderCreated).then_some(event.created_at),
    })
}

#[cfg(test)]
mod tests {
    use rdkafka::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    fn record(payload: Option<&str>) -> OwnedMessage {
        let payload = payload.map(|text| text.as_bytes().to_vec());
        OwnedMessage::new(
            payload,
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
        let encoded = encode(&record(Some(&event().to_string())), &mut body).unwrap();
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
        for payload in [None, Some("{".to_owned()), Some("[1]".to_owned())]
            .into_iter()
            .chain([unknown_field, version_zero, no_id].map(|value| Some(value.to_string())))
        {
            let mut body = b"before\n".to_vec();
            encode(&record(payload.as_deref()), &mut body).unwrap_err();
            assert_eq!(body, b"before\n");
        }
    }
}
