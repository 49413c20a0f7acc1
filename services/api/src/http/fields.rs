//! Reads the fields of a body or a query string strictly: every field that is wrong, missing or not known is reported, all
//! at once, each with what it takes.

use std::ops::RangeInclusive;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use serde_json::{Map, Value};

use super::{BODY_LIMIT, rules, rules::Rule};
use crate::problem::{FieldError, Problem};

/// How much of a wrong value is repeated to the caller.
const SHOWN: usize = 60;

/// What was wrong so far.
#[derive(Debug, Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn add(&mut self, field: &str, message: String) {
        self.0.push(FieldError {
            field: field.to_owned(),
            message,
        });
    }

    fn missing(&mut self, field: &str, accepted: &str) {
        self.add(field, format!("is missing; it takes {accepted}"));
    }

    fn wrong(&mut self, field: &str, value: &str, accepted: &str) {
        let cut = if value.chars().nth(SHOWN).is_some() {
            "…"
        } else {
            ""
        };
        let shown: String = value.chars().take(SHOWN).collect();
        self.add(field, format!("is {shown}{cut}; it takes {accepted}"));
    }

    fn unknown(&mut self, field: &str, known: &[&str]) {
        let shown: String = field.chars().take(SHOWN).collect();
        self.add(&shown, format!("is not known; known are {}", known.join(", ")));
    }

    fn finish(self) -> Result<(), Problem> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid(self.0))
        }
    }
}

/// 400: this one field, parameter or header is wrong.
pub fn wrong(field: &str, value: &str, accepted: &str) -> Problem {
    let mut errors = Errors::default();
    errors.wrong(field, value, accepted);
    Problem::invalid(errors.0)
}

/// The fields of a JSON object.
#[derive(Debug)]
pub struct Body {
    values: Map<String, Value>,
    asked: Vec<&'static str>,
    errors: Errors,
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::unsupported_media_type());
        }
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection: BytesRejection| {
                if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                    Problem::too_large(BODY_LIMIT)
                } else {
                    Problem::malformed("the body broke off")
                }
            })?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(values)) => Ok(Self::of(values)),
            Ok(_) => Err(Problem::malformed("the body is JSON but not an object")),
            Err(error) => Err(Problem::malformed(format!("the body is not JSON: {error}"))),
        }
    }
}

/// `application/json` or `application/…+json`, with any parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let text = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = text
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence
        .strip_prefix("application/")
        .is_some_and(|kind| kind == "json" || kind.ends_with("+json"))
}

impl Body {
    /// A whole number that must be there.
    pub fn number(&mut self, name: &'static str, range: &RangeInclusive<i64>) -> Option<i64> {
        let accepted = format!("a whole number from {} to {}", range.start(), range.end());
        let Some(value) = self.take(name) else {
            self.errors.missing(name, &accepted);
            return None;
        };
        let number = whole(&value).filter(|number| range.contains(number));
        if number.is_none() {
            self.errors.wrong(name, &value.to_string(), &accepted);
        }
        number
    }

    /// A text that may be missing or null.
    pub fn text<T>(&mut self, name: &'static str, rule: &Rule<T>) -> Option<T> {
        let value = self.take(name).filter(|value| !value.is_null())?;
        let parsed = value.as_str().and_then(rule.parse);
        if parsed.is_none() {
            self.errors.wrong(name, &value.to_string(), rule.accepted);
        }
        parsed
    }

    /// A text that must be there.
    pub fn required_text<T>(&mut self, name: &'static str, rule: &Rule<T>) -> Option<T> {
        let Some(value) = self.take(name) else {
            self.errors.missing(name, rule.accepted);
            return None;
        };
        let parsed = value.as_str().and_then(rule.parse);
        if parsed.is_none() {
            self.errors.wrong(name, &value.to_string(), rule.accepted);
        }
        parsed
    }

    /// A list of at most `most` objects that may be missing or null. `read` asks for the fields of one; what is wrong
    /// with them is told with their place, as in `skus[0].stock`.
    pub fn objects<T>(
        &mut self,
        name: &'static str,
        most: usize,
        read: impl Fn(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let value = self.take(name).filter(|value| !value.is_null())?;
        let accepted = format!("a list of at most {most} objects");
        let items = match value {
            Value::Array(items) if items.len() <= most => items,
            Value::Array(items) => {
                let found = format!("a list of {}", items.len());
                self.errors.wrong(name, &found, &accepted);
                return None;
            }
            other => {
                self.errors.wrong(name, &other.to_string(), &accepted);
                return None;
            }
        };
        let mut objects = Vec::with_capacity(items.len());
        for (place, item) in items.into_iter().enumerate() {
            let path = format!("{name}[{place}]");
            let Value::Object(values) = item else {
                self.errors.wrong(&path, &item.to_string(), "an object");
                continue;
            };
            let mut object = Self::of(values);
            objects.extend(read(&mut object));
            let wrong = object.all_errors().0.into_iter();
            self.errors.0.extend(wrong.map(|error| FieldError {
                field: format!("{path}.{}", error.field),
                ..error
            }));
        }
        Some(objects)
    }

    /// The `Idempotency-Key` header.
    pub fn header_key(&mut self, headers: &HeaderMap) -> Option<String> {
        const NAME: &str = "Idempotency-Key";
        let mut values = headers.get_all(NAME).iter();
        let value = values.next()?;
        if values.next().is_some() {
            self.errors
                .add(NAME, "is there more than once; it takes one key".to_owned());
            return None;
        }
        let key = value.to_str().ok().and_then(rules::header_key);
        if key.is_none() {
            self.errors.wrong(
                NAME,
                &String::from_utf8_lossy(value.as_bytes()),
                rules::IDEMPOTENCY_KEY.accepted,
            );
        }
        key
    }

    /// A mistake that only the caller can see.
    pub fn error(&mut self, field: &str, message: &str) {
        self.errors.add(field, message.to_owned());
    }

    /// Everything was asked for; what is left is not known.
    pub fn finish(self) -> Result<(), Problem> {
        self.all_errors().finish()
    }

    fn of(values: Map<String, Value>) -> Self {
        Self {
            values,
            asked: Vec::new(),
            errors: Errors::default(),
        }
    }

    fn all_errors(mut self) -> Errors {
        for field in self.values.keys() {
            self.errors.unknown(field, &self.asked);
        }
        self.errors
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.asked.push(name);
        self.values.shift_remove(name)
    }
}

/// A number without a fraction, however it is written: to JSON Schema, 2.0 is as whole as 2.
fn whole(value: &Value) -> Option<i64> {
    /// From here on, a number with a fraction part can't be told from its neighbours.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[allow(clippy::cast_possible_truncation, reason = "it is whole and small enough")]
    let truncated = |number: f64| (number.fract() == 0.0 && number.abs() < EXACT).then_some(number as i64);
    value.as_i64().or_else(|| truncated(value.as_f64()?))
}

/// The parameters of a query string.
#[derive(Debug)]
pub struct Query {
    text: Option<String>,
    pairs: Vec<(String, String)>,
    asked: Vec<&'static str>,
    errors: Errors,
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let text = parts.uri.query().map(str::to_owned);
        let pairs = url::form_urlencoded::parse(text.as_deref().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
        Ok(Self {
            text,
            pairs,
            asked: Vec::new(),
            errors: Errors::default(),
        })
    }
}

impl Query {
    /// A parameter that may be missing.
    pub fn optional<T>(&mut self, name: &'static str, rule: &Rule<T>) -> Option<T> {
        self.asked.push(name);
        let mut values = self
            .pairs
            .extract_if(.., |(found, _)| found == name)
            .map(|(_, value)| value);
        let value = values.next()?;
        if values.count() > 0 {
            self.errors.add(
                name,
                format!("is there more than once; it takes {}", rule.accepted),
            );
            return None;
        }
        let parsed = (rule.parse)(&value);
        if parsed.is_none() {
            self.errors.wrong(name, &format!("{value:?}"), rule.accepted);
        }
        parsed
    }

    /// Everything was asked for; what is left is not known. Gives the query string.
    pub fn finish(mut self) -> Result<Option<String>, Problem> {
        for (field, _) in &self.pairs {
            self.errors.unknown(field, &self.asked);
        }
        self.errors.finish()?;
        Ok(self.text)
    }
}

/// The `{id}` in a path.
#[derive(Debug)]
pub struct PathId(pub i64);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|_| Problem::malformed("the path is not UTF-8"))?;
        (rules::ID.parse)(&text)
            .map(Self)
            .ok_or_else(|| wrong("id", &format!("{text:?}"), rules::ID.accepted))
    }
}
