//! Order events as they travel: outbox row, Kafka message, indexed document.
//!
//! A Kafka message has the order id as key, [`OrderEvent`] as JSON value and CloudEvents 1.0 binary-mode headers
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::order::Status;

/// The aggregate type of every event of this pipeline.
pub const AGGREGATE_TYPE: &str = "order";

/// The PostgreSQL channel that is notified, without a payload, when the outbox may have new rows. A hint only: it is
/// sent after the commit, for many rows at once, and may be lost.
pub const WAKE_CHANNEL: &str = "commerce_outbox";

/// Names of the Kafka headers.
pub mod header {
    pub const SPEC_VERSION: &str = "ce_specversion";
    pub const ID: &str = "ce_id";
    pub const SOURCE: &str = "ce_source";
    pub const TYPE: &str = "ce_type";
    pub const SUBJECT: &str = "ce_subject";
    pub const TIME: &str = "ce_time";
    pub const CONTENT_TYPE: &str = "content-type";
    pub const CORRELATION_ID: &str = "correlation-id";
    pub const TRACEPARENT: &str = "traceparent";
    /// `<xid>:<outbox_id>` of the event's row in the outbox: by these, and no other way, an index finds it.
    pub const OUTBOX_POSITION: &str = "outbox-position";
}

/// What happened to an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EventType {
    OrderCreated,
    OrderCancelled,
}

impl EventType {
    /// Every event type; each has a topic of its own.
    pub const ALL: [Self; 2] = [Self::OrderCreated, Self::OrderCancelled];

    /// The topic without the pipeline's prefix; also the outbox row's `event_type` and the `ce_type` header.
    #[must_use]
    pub fn topic(self) -> &'static str {
        match self {
            Self::OrderCreated => "order.created",
            Self::OrderCancelled => "order.cancelled",
        }
    }
}

/// The event that says that an order has come to this status.
impl From<Status> for EventType {
    fn from(status: Status) -> Self {
        match status {
            Status::Created => Self::OrderCreated,
            Status::Cancelled => Self::OrderCancelled,
        }
    }
}

/// The value of an order event, on the wire and in the outbox. `Text` may be borrowed from what it is read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OrderEvent<Text = String> {
    /// A decimal number, as text: JSON numbers lose digits in some clients.
    pub order_id: Text,
    pub sku_id: i64,
    pub quantity: i32,
    pub user_id: Text,
    pub status: Status,
    /// The order's version: 1 when created, one more with each change.
    pub version: i64,
    /// Of the request that placed the order, in each of its events: the document is found by it. The header
    /// [`header::CORRELATION_ID`] is of the request that caused the event.
    pub correlation_id: Text,
    pub event_type: EventType,
    /// When the order was created.
    #[serde(deserialize_with = "crate::time::deserialize")]
    pub created_at: DateTime<Utc>,
}
