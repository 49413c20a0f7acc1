//! Paging: opaque cursors and `Link: rel="next"`.

use axum::http::HeaderValue;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};
use url::form_urlencoded::Serializer;

/// A position as text that callers hand back as it is.
pub fn cursor<T: Serialize>(position: &T) -> String {
    // Positions are made of numbers and strings, which always serialize.
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(position).unwrap_or_default())
}

/// The position a cursor stands for; `None` where it is not one of ours.
pub fn position<T: DeserializeOwned>(cursor: &str) -> Option<T> {
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()
}

/// The header that leads to the next page: the same path and parameters, with another cursor.
pub fn next_link(path: &str, query: Option<&str>, cursor: &str) -> Option<HeaderValue> {
    let mut parameters = Serializer::new(String::new());
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    parameters.extend_pairs(pairs.filter(|(name, _)| name != "cursor"));
    parameters.append_pair("cursor", cursor);
    HeaderValue::try_from(format!("<{path}?{}>; rel=\"next\"", parameters.finish())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_gives_its_position_back_and_nothing_else_is_one() {
        let at = (1_795_353_325_000_i64, "42".to_owned());
        assert_eq!(position(&cursor(&at)), Some(at));
        for text in ["", "42", "%%%", "bnVsbA"] {
            assert_eq!(position::<(i64, String)>(text), None, "{text}");
        }
    }

    #[test]
    fn the_next_link_keeps_the_other_parameters() {
        let link = next_link("/search/orders", Some("userId=a%26b&cursor=old&limit=2"), "new").unwrap();
        assert_eq!(
            link,
            "</search/orders?userId=a%26b&limit=2&cursor=new>; rel=\"next\""
        );
    }
}
