//! What a dead letter tells, and the event that is in it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use rdkafka::{
    Message as _,
    message::{Header, Headers as _, OwnedHeaders, OwnedMessage},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::mailbox::Address;
use crate::{dead_letters::header, offsets::Partition};

/// The headers that tell that an event comes from a dead letter. Should it fail again, its new letter has them.
pub(super) mod replay {
    /// The letter.
    pub(crate) const FROM: &str = "replayed-from";
    /// So often was the event replayed.
    pub(crate) const COUNT: &str = "replays";
}

/// A dead letter without the event.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Letter {
    /// `topic/partition/offset`
    pub(super) address: String,
    pub(super) at: Option<DateTime<Utc>>,
    pub(super) reason: String,
    pub(super) error: String,
    /// Where the event was.
    pub(super) origin: Option<String>,
    pub(super) key: Option<String>,
    /// Published again from here.
    pub(super) replayed: bool,
    /// So often had the event been published again before it came here.
    pub(super) replays: u32,
}

impl Letter {
    pub(super) fn new(record: &OwnedMessage, replayed: bool) -> Self {
        Self {
            address: address(record).to_string(),
            at: record
                .timestamp()
                .to_millis()
                .and_then(DateTime::from_timestamp_millis),
            reason: text(record, header::REASON).unwrap_or_else(|| "unknown".to_owned()),
            error: text(record, header::ERROR).unwrap_or_default(),
            origin: origin(record).map(|origin| origin.to_string()),
            key: record.key().map(|key| String::from_utf8_lossy(key).into_owned()),
            replayed,
            replays: replays(record),
        }
    }
}

pub(super) fn address(record: &OwnedMessage) -> Address {
    Address {
        partition: Partition::new(record.topic(), record.partition()),
        offset: record.offset(),
    }
}

/// Where the event was, as the letter says.
pub(super) fn origin(record: &OwnedMessage) -> Option<Address> {
    Some(Address {
        partition: Partition::new(
            text(record, header::TOPIC)?,
            text(record, header::PARTITION)?.parse().ok()?,
        ),
        offset: text(record, header::OFFSET)?.parse().ok()?,
    })
}

/// Whether the event's value is not in the letter, but only where the event was.
pub(super) fn is_without_value(record: &OwnedMessage) -> bool {
    text(record, header::PAYLOAD).is_some()
}

/// So often was the event replayed before it became this letter.
pub(super) fn replays(record: &OwnedMessage) -> u32 {
    text(record, replay::COUNT)
        .and_then(|count| count.parse().ok())
        .unwrap_or_default()
}

/// The headers of the event when it is replayed.
pub(super) fn headers(record: &OwnedMessage) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new();
    for own in all(record) {
        let ours = own.key.starts_with(header::PREFIX) || [replay::FROM, replay::COUNT].contains(&own.key);
        if !ours {
            headers = headers.insert(own);
        }
    }
    let (from, count) = (
        address(record).to_string(),
        replays(record).saturating_add(1).to_string(),
    );
    for (key, value) in [(replay::FROM, &from), (replay::COUNT, &count)] {
        headers = headers.insert(Header {
            key,
            value: Some(value),
        });
    }
    headers
}

/// The headers by name, and the value; what is no text is in base64.
pub(super) fn content(record: &OwnedMessage) -> (Vec<(String, Value)>, Value) {
    let headers = all(record)
        .map(|header| (header.key.to_owned(), value(header.value)))
        .collect();
    (headers, value(record.payload()))
}

fn value(bytes: Option<&[u8]>) -> Value {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => text.into(),
        Some((bytes, Err(_))) => json!({"base64": STANDARD.encode(bytes)}),
    }
}

fn text(record: &OwnedMessage, name: &str) -> Option<String> {
    let header = all(record).find(|header| header.key == name)?;
    Some(String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned())
}

fn all(record: &OwnedMessage) -> impl Iterator<Item = Header<'_, &[u8]>> {
    record.headers().into_iter().flat_map(|headers| headers.iter())
}
