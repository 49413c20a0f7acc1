//! Differences between what is in a store and what a spec asks for, field by field. Pure.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

/// One field of something in a store that is not as the spec says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// As a person names it, for example `topic shop.order.created`.
    pub object: String,
    pub what: What,
    /// Why it can't be put right here, and what to do; absent where it can.
    pub stays: Option<String>,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// All of it: it does not exist.
    Missing,
    Field {
        name: String,
        /// Absent where it is not set.
        found: Option<String>,
        /// Absent where it is not to be set.
        wanted: Option<String>,
    },
}

impl Difference {
    #[must_use]
    pub fn missing(object: impl Into<String>) -> Self {
        Self {
            object: object.into(),
            what: What::Missing,
            stays: None,
        }
    }

    #[must_use]
    pub fn field(
        object: impl Into<String>,
        name: impl Into<String>,
        found: Option<String>,
        wanted: Option<String>,
    ) -> Self {
        let what = What::Field {
            name: name.into(),
            found,
            wanted,
        };
        Self {
            object: object.into(),
            what,
            stays: None,
        }
    }

    /// It can't be put right, and this is what to do.
    #[must_use]
    pub fn that_stays(mut self, advice: impl Into<String>) -> Self {
        self.stays = Some(advice.into());
        self
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Missing => write!(f, "{} does not exist", self.object)?,
            What::Field { name, found, wanted } => {
                let verb = if name == "partitions" { "are" } else { "is" };
                let said = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
                let (found, wanted) = (said(found), said(wanted));
                write!(f, "{}: {name} {verb} {found}, spec says {wanted}", self.object)?;
            }
        }
        match &self.stays {
            Some(advice) => write!(f, " ({advice})"),
            None => Ok(()),
        }
    }
}

/// Where `wanted` has a leaf that `found` has not, or another one. What only `found` has is no difference.
pub(crate) fn leaves(object: &str, found: &Value, wanted: &Value) -> Vec<Difference> {
    let (found, wanted) = (flat(found), flat(wanted));
    wanted
        .into_iter()
        .filter(|(name, value)| found.get(name) != Some(value))
        .map(|(name, value)| {
            let is = found.get(&name).cloned();
            Difference::field(object, name, is, Some(value))
        })
        .collect()
}

/// Leaves by their dotted path, as text: Elasticsearch writes `1` as `"1"`, and `{"a": {"b": 1}}` as `{"a.b": 1}`.
pub(crate) fn flat(value: &Value) -> BTreeMap<String, String> {
    fn walk(path: &str, value: &Value, leaves: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (name, value) in fields {
                    let path = if path.is_empty() {
                        name.clone()
                    } else {
                        format!("{path}.{name}")
                    };
                    walk(&path, value, leaves);
                }
            }
            Value::Array(items) => {
                let items: Vec<_> = items.iter().map(text).collect();
                leaves.insert(path.to_owned(), items.join(","));
            }
            other => {
                leaves.insert(path.to_owned(), text(other));
            }
        }
    }
    let mut leaves = BTreeMap::new();
    walk("", value, &mut leaves);
    leaves
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_difference_reads_like_a_sentence() {
        let field = |name: &str, found: Option<&str>| {
            let text = |value: &str| value.to_owned();
            Difference::field("topic t", name, found.map(text), Some("6".into()))
        };
        assert_eq!(
            field("partitions", Some("12"))
                .that_stays("they can't be fewer")
                .to_string(),
            "topic t: partitions are 12, spec says 6 (they can't be fewer)"
        );
        assert_eq!(
            field("retention.ms", None).to_string(),
            "topic t: retention.ms is not set, spec says 6"
        );
        assert_eq!(
            Difference::missing("topic t").to_string(),
            "topic t does not exist"
        );
    }

    #[test]
    fn notation_makes_no_difference_and_neither_does_what_was_not_asked_for() {
        let wanted = json!({"index": {"replicas": 1, "sort.field": ["a", "b"]}});
        let found = json!({"index.replicas": "1", "index": {"sort": {"field": ["a", "b"]}, "uuid": "x"}});
        assert_eq!(leaves("x", &found, &wanted), []);
        let told = leaves(
            "x",
            &json!({"index.replicas": "2"}),
            &json!({"index": {"replicas": 1}}),
        );
        assert_eq!(told[0].to_string(), "x: index.replicas is 2, spec says 1");
    }
}
