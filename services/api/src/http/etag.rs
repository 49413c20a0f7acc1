//! `ETag`, and the conditions that callers build on it (RFC 9110, 8.8.3 and 13.1). The tag of a thing is its version.

use axum::{
    Json,
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::fields;
use crate::{problem::Problem, version::Expected};

const ACCEPTED: &str = "* or ETags such as \"1\", with commas between them";

/// The header `If-Match`, which may be absent.
#[derive(Debug)]
pub struct IfMatch(Option<Expected>);

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let values: Vec<_> = values(&parts.headers, &header::IF_MATCH).collect();
        if values.is_empty() {
            return Ok(Self(None));
        }
        let text = values.join(", ");
        let expected = expected(&text).ok_or_else(|| fields::wrong("If-Match", &text, ACCEPTED))?;
        Ok(Self(Some(expected)))
    }
}

impl IfMatch {
    /// What the caller expects; anything where it does not say.
    pub fn or_any(self) -> Expected {
        self.0.unwrap_or(Expected::Any)
    }

    /// The same for what nobody may change unseen: without the header it is 428.
    pub fn required(self) -> Result<Expected, Problem> {
        self.0.ok_or_else(Problem::precondition_required)
    }
}

/// The versions that an `If-Match` names; `None` where it is malformed. Tags that are weak or not ours match nothing.
fn expected(text: &str) -> Option<Expected> {
    if text.trim() == "*" {
        return Some(Expected::Any);
    }
    let (mut versions, mut tags) = (Vec::new(), 0);
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (weak, tag) = rest.strip_prefix("W/").map_or((false, rest), |tag| (true, tag));
        let (opaque, after) = tag.strip_prefix('"')?.split_once('"')?;
        // Only the one way in which we write a version stands for it.
        let version = opaque.parse::<i64>().ok();
        versions.extend(version.filter(|version| !weak && version.to_string() == opaque));
        tags += 1;
        rest = after.trim_start();
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    (tags > 0).then_some(Expected::OneOf(versions))
}

/// `value` with its `ETag`; 304 where the caller's `If-None-Match` says that it has this version.
pub fn unless_known(headers: &HeaderMap, version: i64, value: impl Serialize) -> Response {
    let tag = tag(version);
    let mut known = values(headers, &header::IF_NONE_MATCH).flat_map(|value| value.split(',').map(str::trim));
    if known.any(|given| given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag) {
        tagged(version, StatusCode::NOT_MODIFIED)
    } else {
        tagged(version, Json(value))
    }
}

/// An answer about this version.
pub fn tagged(version: i64, answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    if let Ok(tag) = HeaderValue::try_from(tag(version)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

fn tag(version: i64) -> String {
    format!("\"{version}\"")
}

/// Every value of a header; what is not text is the empty one, which is nobody's tag.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter();
    values.map(|value| value.to_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_if_match_names_versions_and_only_strong_tags_match() {
        let one_of = |versions: &[i64]| Some(Expected::OneOf(versions.to_vec()));
        assert_eq!(expected("*"), Some(Expected::Any));
        assert_eq!(expected("\"1\""), one_of(&[1]));
        assert_eq!(expected("\"1\",\"7\" , \"x\""), one_of(&[1, 7]));
        for other in [
            "W/\"1\"",
            "\"\"",
            "\"01\"",
            "\"+1\"",
            "\"one, \"",
            "W/\"1\",,\"x\"",
        ] {
            assert_eq!(expected(other), one_of(&[]), "{other}");
        }
        for malformed in [
            "",
            ",",
            "1",
            "\"1",
            "1\"",
            "\"1\" \"2\"",
            "*, \"1\"",
            "w/\"1\"",
            "\"",
        ] {
            assert_eq!(expected(malformed), None, "{malformed}");
        }
    }
}
