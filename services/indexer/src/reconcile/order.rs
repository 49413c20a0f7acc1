//! What an order and its document have in common.

use chrono::{DateTime, Utc};
use commerce_core::order::Status;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::document::Document;

/// An order as PostgreSQL has it, or as a document tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Order {
    #[serde(rename = "orderId")]
    pub(super) id: String,
    pub(super) sku_id: i64,
    pub(super) quantity: i32,
    pub(super) user_id: String,
    pub(super) status: Status,
    pub(super) version: i64,
    pub(super) correlation_id: String,
    pub(super) created_at: DateTime<Utc>,
}

impl Order {
    /// 64 bits over everything in it; PostgreSQL computes the same, see [`super::orders`]. The length tells where the user
    /// ends.
    pub(super) fn digest(&self) -> i64 {
        let text = format!(
            "{}|{}|{}|{}|{}|{}|{}|{}|{}",
            self.id,
            self.sku_id,
            self.quantity,
            self.status,
            self.version,
            self.created_at.timestamp_micros(),
            self.user_id.len(),
            self.user_id,
            self.correlation_id,
        );
        let hash = Sha256::digest(text);
        hash[..8]
            .iter()
            .fold(0, |digest, byte| digest << 8 | i64::from(*byte))
    }

    /// The document of this order. From which record it is, PostgreSQL does not know.
    pub(super) fn document(&self, indexed_at: DateTime<Utc>) -> Document<'_> {
        Document {
            order_id: &self.id,
            sku_id: self.sku_id,
            quantity: self.quantity,
            user_id: &self.user_id,
            status: self.status,
            version: self.version,
            correlation_id: &self.correlation_id,
            created_at: self.created_at,
            published_at: None,
            indexed_at,
            origin: None,
        }
    }

    /// The fields that are not the same in a document.
    pub(super) fn differing(&self, document: &Value) -> Vec<String> {
        let Ok(Value::Object(expected)) = serde_json::to_value(self) else {
            return Vec::new();
        };
        let time = |value: &Value| serde_json::from_value::<DateTime<Utc>>(value.clone()).ok();
        let same = |name: &str, value: &Value| match document.get(name) {
            Some(found) if name == "createdAt" => time(found) == time(value),
            found => found == Some(value),
        };
        let differing = expected.iter().filter(|(name, value)| !same(name, value));
        differing.map(|(name, _)| name.clone()).collect()
    }
}

/// The order that this is the id of; `None` where no order has such an id.
pub(super) fn number(id: &str) -> Option<i64> {
    let number = id.parse::<i64>().ok().filter(|number| *number > 0)?;
    (number.to_string() == id).then_some(number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn order() -> Order {
        serde_json::from_value(json!({
            "orderId": "17", "skuId": 5, "quantity": 2, "userId": "ann|1", "status": "CREATED", "version": 1,
            "correlationId": "c-1", "createdAt": "2026-01-02T03:04:05.678901Z", "topic": "order.created",
        }))
        .unwrap()
    }

    #[test]
    fn everything_in_an_order_changes_its_digest() {
        let digest = order().digest();
        let others = [
            Order {
                id: "18".to_owned(),
                ..order()
            },
            Order {
                user_id: "ann".to_owned(),
                correlation_id: "1|c-1".to_owned(),
                ..order()
            },
            Order {
                status: Status::Cancelled,
                ..order()
            },
            Order {
                created_at: order().created_at + chrono::TimeDelta::microseconds(1),
                ..order()
            },
        ];
        for other in others {
            assert_ne!(other.digest(), digest, "{other:?}");
        }
    }

    #[test]
    fn fields_that_differ_are_named() {
        let mut document = json!({
            "orderId": "17", "skuId": 5, "quantity": "2", "userId": "ann|1", "status": "CREATED", "version": 1,
            "createdAt": "2026-01-02T04:04:05.678901+01:00", "indexedAt": "2026-01-02T03:04:06Z",
        });
        assert_eq!(order().differing(&document), ["quantity", "correlationId"]);
        document["createdAt"] = json!("2026-01-02T03:04:05.678Z");
        assert_eq!(
            order().differing(&document),
            ["quantity", "correlationId", "createdAt"]
        );
    }

    #[test]
    fn only_the_usual_way_to_write_a_number_is_an_id() {
        assert_eq!(number("17"), Some(17));
        for id in ["", "0", "017", "+17", "-17", " 17", "17a", "9223372036854775808"] {
            assert_eq!(number(id), None, "{id:?}");
        }
    }
}
