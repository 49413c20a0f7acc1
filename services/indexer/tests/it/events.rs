//! Events of orders, and where they should end.

use std::collections::BTreeMap;

use chrono::Utc;
use commerce_core::{
    event::{EventType, OrderEvent},
    order::Status,
};

/// Where each order should stand: version and status.
pub(crate) type Expected = BTreeMap<String, (i64, &'static str)>;

/// The creation of an order by a user of its own.
pub(crate) fn created(id: u64) -> OrderEvent {
    OrderEvent {
        order_id: id.to_string(),
        sku_id: 7,
        quantity: 2,
        user_id: format!("user-{id}"),
        status: Status::Created,
        version: 1,
        correlation_id: format!("correlation-{id}"),
        event_type: EventType::OrderCreated,
        created_at: Utc::now(),
    }
}

pub(crate) fn cancelled(id: u64) -> OrderEvent {
    OrderEvent {
        status: Status::Cancelled,
        version: 2,
        event_type: EventType::OrderCancelled,
        ..created(id)
    }
}

/// The orders of these events, each in the state of its highest version.
pub(crate) fn expected(events: &[OrderEvent]) -> Expected {
    let mut expected = Expected::new();
    for event in events {
        let state = expected.entry(event.order_id.clone()).or_insert((0, ""));
        if event.version > state.0 {
            *state = (event.version, event.status.as_str());
        }
    }
    expected
}
