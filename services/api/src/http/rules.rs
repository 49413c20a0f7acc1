//! What values the API takes, and how it says so.

use std::ops::RangeInclusive;

use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use commerce_core::order::Status;

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
    parse: |text| visible(text, 255),
};

/// What requests are known by.
pub const CORRELATION_ID: Rule<String> = Rule {
    accepted: "1 to 80 visible ASCII characters",
    parse: |text| visible(text, 80),
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

/// Milliseconds since 1970, which is as exact as the index is.
pub const TIME: Rule<i64> = Rule {
    accepted: "an RFC 3339 time from 1970 to 9999 such as 2026-01-31T12:00:00Z (a plus sign is written %2B)",
    parse: |text| {
        let time = DateTime::parse_from_rfc3339(text).ok()?.with_timezone(&Utc);
        Some(time.timestamp_millis()).filter(|time| (0..=253_402_300_799_999).contains(time))
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

fn visible(text: &str, longest: usize) -> Option<String> {
    let fits = (1..=longest).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| text.to_owned())
}

/// The `Idempotency-Key` header: the key as it is, or as the quoted string (RFC 8941) that the IETF draft asks for.
pub fn header_key(text: &str) -> Option<String> {
    let quoted = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let key = quoted.unwrap_or(text);
    (IDEMPOTENCY_KEY.parse)(key).filter(|key| quoted.is_none() || !key.contains(['"', '\\']))
}

/// The trace context that a request came with, if it is one.
pub fn traceparent_of(headers: &HeaderMap) -> Option<String> {
    traceparent(headers.get("traceparent")?.to_str().ok()?)
}

/// A W3C trace context (<https://www.w3.org/TR/trace-context/#traceparent-header>), if it is one.
fn traceparent(text: &str) -> Option<String> {
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let nonzero = |part: &str| part.bytes().any(|byte| byte != b'0');
    let parts: Vec<_> = text.split('-').collect();
    let [version, trace, parent, flags] = parts[..] else {
        return None;
    };
    let well_formed = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    (well_formed && version != "ff" && nonzero(trace) && nonzero(parent)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_a_header_may_be_quoted() {
        assert_eq!(header_key("a-key").as_deref(), Some("a-key"));
        assert_eq!(header_key("\"a-key\"").as_deref(), Some("a-key"));
        for text in ["", "\"\"", "a key", "\"a\\\"b\""] {
            assert_eq!(header_key(text), None, "{text}");
        }
    }

    #[test]
    fn only_a_well_formed_trace_context_is_carried_on() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(traceparent(good).as_deref(), Some(good));
        for text in [
            "",
            "00-0-0-0",
            &good.to_uppercase(),
            &good
                .replace('4', "0")
                .replace("bf92f3577b30da6a3ce929d0e0e0736", "x"),
        ] {
            assert_eq!(traceparent(text), None, "{text}");
        }
        assert_eq!(
            traceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
            None
        );
    }
}
