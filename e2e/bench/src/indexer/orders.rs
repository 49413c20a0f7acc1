//! The orders that are indexed: their events, and the documents that the indexer makes of them.

use anyhow::Result;
use bytes::Bytes;
use chrono::{DateTime, Duration, Utc};
use commerce_core::{
    event::{EventType, OrderEvent},
    order::Status,
};
use serde_json::json;
use uuid::Uuid;

/// Orders with the numbers from 1 on.
pub struct Orders {
    pub count: u32,
    began: DateTime<Utc>,
}

impl Orders {
    pub fn new(count: u32) -> Self {
        Self {
            count,
            began: Utc::now(),
        }
    }

    pub fn event(&self, number: u32) -> OrderEvent {
        OrderEvent {
            order_id: number.to_string(),
            sku_id: i64::from(number % 1_000),
            quantity: 1 + (number % 5).cast_signed(),
            user_id: format!("user-{}", number % 10_000),
            status: Status::Created,
            version: 1,
            correlation_id: Uuid::new_v4().to_string(),
            event_type: EventType::OrderCreated,
            created_at: self.began + Duration::milliseconds(number.into()),
        }
    }

    /// The first `count` orders as bodies of bulk requests with `size` documents each.
    pub fn bodies(&self, count: u32, size: u32) -> Result<Vec<Bytes>> {
        let mut bodies = Vec::new();
        let mut body = Vec::new();
        for number in 1..=count {
            let event = self.event(number);
            let action = json!({"index": {"_id": event.order_id, "version": 1, "version_type": "external"}});
            let document = json!({
                "orderId": event.order_id,
                "skuId": event.sku_id,
                "quantity": event.quantity,
                "userId": event.user_id,
                "status": event.status,
                "version": event.version,
                "correlationId": event.correlation_id,
                "createdAt": event.created_at,
                "publishedAt": event.created_at + Duration::milliseconds(5),
                "indexedAt": Utc::now(),
                "topic": event.event_type.topic(),
                "partition": number % 6,
                "offset": number / 6,
            });
            for line in [action, document] {
                serde_json::to_writer(&mut body, &line)?;
                body.push(b'\n');
            }
            if number % size == 0 || number == count {
                bodies.push(std::mem::take(&mut body).into());
            }
        }
        Ok(bodies)
    }
}
