//! What values the API takes, and how it says so.

use std::ops::RangeInclusive;

use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use commerce_core::{order::Status, trace};

use crate::page;

/// A kind of text value.
#[derive(Debug, Clone, Copy)]
pub struct Rule<T> {
    /// Completes "it takes …".
    pub accepted: &'static str,
    pub parse: fn(&str) -> Option<T>,
}

/// Who orders.
pub const USER_ID: Rule<String> = Rule {
    accepted: "text of 1 to 128 characters without control characters",
    parse: |text| plain(text, 128),
};

/// What products and SKUs are called.
pub const NAME: Rule<String> = Rule {
    accepted: "text of 1 to 200 characters without control characters",
    parse: |text| plain(text, 200),
};

/// Whether two requests are one.
pub const IDEMPOTENCY_KEY: Rule<String> = Rule {
    accepted: "1 to 255 visible ASCII characters",
    parse: |text| is_visible(text, 255).then(|| text.to_owned()),
};

/// What requests are known by.
pub const CORRELATION_ID: Rule<String> = Rule {
    accepted: "1 to 80 visible ASCII characters",
    parse: |text| is_correlation_id(text).then(|| text.to_owned()),
};

/// Ids that PostgreSQL hands out.
pub const ID: Rule<i64> = Rule {
    accepted: "a whole number from 1 to 9223372036854775807",
    parse: |text| {
        // `parse` would take a plus sign, too.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|id| digits && IDS.contains(id))
    },
};

/// How many entries a page has.
pub const LIMIT: Rule<u16> = Rule {
    accepted: "a whole number from 1 to 100",
    parse: |text| text.parse().ok().filter(|limit| (1..=100).contains(limit)),
};

pub const STATUS: Rule<Status> = Rule {
    accepted: "CREATED or CANCELLED",
    parse: |text| text.parse().ok(),
};

/// Milliseconds since 1970, which is as exact as the index is. No order is older than that or younger than the year 9999, so
/// times beyond are as good as those.
pub const TIME: Rule<i64> = Rule {
    accepted: "an RFC 3339 time such as 2026-01-31T12:00:00Z (a plus sign is written %2B)",
    parse: |text| {
        let time = DateTime::parse_from_rfc3339(text).ok()?.with_timezone(&Utc);
        Some(time.timestamp_millis().clamp(0, 253_402_300_799_999))
    },
};

/// Where a page of a search begins.
pub const SEARCH_CURSOR: Rule<crate::search::Position> = Rule {
    accepted: "the cursor from the Link header of another page",
    parse: |text| page::position(text).filter(|(_, id): &crate::search::Position| (ID.parse)(id).is_some()),
};

/// Where a page of products begins.
pub const PRODUCT_CURSOR: Rule<i64> = Rule {
    accepted: SEARCH_CURSOR.accepted,
    parse: |text| page::position(text).filter(|id| IDS.contains(id)),
};

pub const IDS: RangeInclusive<i64> = 1..=i64::MAX;

/// How many pieces one order takes.
pub const QUANTITIES: RangeInclusive<i64> = 1..=1000;

/// How many pieces a SKU is given.
pub const STOCKS: RangeInclusive<i64> = 0..=1_000_000_000_000;

/// How many SKUs a product is added with.
pub const MOST_SKUS: usize = 100;

fn plain(text: &str, longest: usize) -> Option<String> {
    let length = text.chars().take(longest + 1).count();
    let fits = (1..=longest).contains(&length) && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}

/// Whether it is a [`CORRELATION_ID`].
pub fn is_correlation_id(text: &str) -> bool {
    is_visible(text, 80)
}

fn is_visible(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The `Idempotency-Key` header: the key as it is, or as the quoted string (RFC 8941) that the IETF draft asks for.
pub fn header_key(text: &str) -> Option<String> {
    let Some(rest) = text.strip_prefix('"') else {
        return (IDEMPOTENCY_KEY.parse)(text);
    };
    let key = rest.strip_suffix('"').filter(|key| !key.contains(['"', '\\']))?;
    (IDEMPOTENCY_KEY.parse)(key)
}

/// The trace context that a request came with, if it is one.
pub fn traceparent_of(headers: &HeaderMap) -> Option<String> {
    traceparent(headers.get("traceparent")?.to_str().ok()?)
}

/// A W3C trace context (<https://www.w3.org/TR/trace-context/#traceparent-header>), if it is one.
fn traceparent(text: &str) -> Option<String> {
    trace::is_traceparent(text).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_a_header_may_be_quoted() {
        assert_eq!(header_key("a-key").as_deref(), Some("a-key"));
        assert_eq!(header_key("\"a-key\"").as_deref(), Some("a-key"));
        for text in ["", "\"\"", "a key", "\"a\\\"b\"", "\"", "\"half"] {
            assert_eq!(header_key(text), None, "{text}");
        }
    }
}
