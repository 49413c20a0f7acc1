//! The orders index: its mapping, and how template, index and alias are brought about.
//!
//! A concrete index is called `<alias>-<hash of mappings and fixed settings>-<n>`, so that its name tells whether it has
//! the mapping that is wanted. Everybody reads and writes through the alias.

mod found;
mod write;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub use self::{
    found::{Found, active_index, count, read},
    write::{create_beside, delete, delete_index, ensure, move_alias, promote},
};

/// The alias of an index that is being filled beside the one that serves, and takes live events, too: see the indexer's
/// `rebuild --live`. An index that misses one loses it, and with it the right to be promoted.
#[must_use]
pub fn next_alias(alias: &str) -> String {
    format!("{alias}~next")
}

/// Exit code of `indexer rebuild` where Elasticsearch does not take some orders, as it will not next time either.
pub const REFUSED: u8 = 5;

/// The index as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexSpec {
    /// The alias; concrete indices and the template are named after it.
    pub name: String,
    pub shards: u32,
    pub replicas: u32,
    /// An Elasticsearch duration such as `1s`.
    pub refresh_interval: String,
    /// Properties beside the ones the pipeline writes, or other definitions of them.
    pub properties: serde_json::Map<String, Value>,
    /// Further index settings, such as `{"codec": "best_compression"}`.
    pub settings: serde_json::Map<String, Value>,
}

/// What [`ensure`] found or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexState {
    /// The alias points at an index with the wanted mapping.
    Active { index: String, created: bool },
    /// The alias points at an index with another mapping, which was left as it is.
    MappingDiffers { active: String, wanted: String },
}

impl IndexState {
    /// What there is, where nothing is written.
    #[must_use]
    pub fn of(spec: &IndexSpec, found: &Found) -> Self {
        let (active, wanted) = (
            found.active(spec).unwrap_or_default().to_owned(),
            spec.wanted_index(),
        );
        if spec.fits(&active) {
            Self::Active {
                index: active,
                created: false,
            }
        } else {
            Self::MappingDiffers { active, wanted }
        }
    }
}

impl IndexSpec {
    /// One shard, no replicas, refreshed every 30 seconds if nobody asks for it.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            shards: 1,
            replicas: 0,
            refresh_interval: "30s".to_owned(),
            properties: serde_json::Map::new(),
            settings: serde_json::Map::new(),
        }
    }

    /// `dynamic: strict`: a field that nobody planned is an error, not a surprise.
    #[must_use]
    pub fn mappings(&self) -> Value {
        let keyword = json!({"type": "keyword"});
        let date = json!({"type": "date"});
        let mut properties = json!({
            "orderId": keyword,
            "skuId": {"type": "long"},
            "quantity": {"type": "integer"},
            "userId": keyword,
            "status": keyword,
            "version": {"type": "long"},
            "correlationId": keyword,
            "createdAt": date,
            "publishedAt": date,
            "indexedAt": date,
            "topic": keyword,
            "partition": {"type": "integer"},
            "offset": {"type": "long"},
        });
        for (name, definition) in &self.properties {
            properties[name] = definition.clone();
        }
        json!({"dynamic": "strict", "properties": properties})
    }

    /// The settings that can't change while an index lives.
    fn fixed_settings(&self) -> Value {
        json!({"number_of_shards": self.shards})
    }

    fn changeable_settings(&self) -> Value {
        let mut settings = Value::Object(self.settings.clone());
        settings["number_of_replicas"] = self.replicas.into();
        settings["refresh_interval"] = self.refresh_interval.clone().into();
        settings
    }

    fn index_settings(&self) -> Value {
        let mut settings = self.changeable_settings();
        settings["number_of_shards"] = self.shards.into();
        settings
    }

    /// Eight hex digits over mappings and fixed settings.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for part in [self.mappings(), self.fixed_settings()] {
            hasher.update(canonical(&part).to_string());
        }
        hasher
            .finalize()
            .iter()
            .take(4)
            .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    /// Name of the concrete index that has the wanted mapping.
    #[must_use]
    pub fn wanted_index(&self) -> String {
        format!("{}-{}-1", self.name, self.hash())
    }

    /// Whether an index has the wanted mapping, by its name.
    #[must_use]
    pub fn fits(&self, index: &str) -> bool {
        index.starts_with(&format!("{}-{}-", self.name, self.hash()))
    }

    /// Whether an index is one that was made for this alias, with whatever mapping, by its name.
    #[must_use]
    pub fn owns(&self, index: &str) -> bool {
        let rest = index
            .strip_prefix(self.name.as_str())
            .and_then(|rest| rest.strip_prefix('-'));
        rest.and_then(|rest| rest.split_once('-'))
            .is_some_and(|(hash, number)| {
                hash.len() == 8
                    && hash.bytes().all(|b| b.is_ascii_hexdigit())
                    && !number.is_empty()
                    && number.bytes().all(|b| b.is_ascii_digit())
            })
    }

    /// The template, which new indices follow.
    fn template(&self) -> Value {
        // Where one pipeline's name is the beginning of another's, both patterns match the longer one's indices and the
        // longer one must win.
        let priority = 200 + self.name.len();
        json!({
            "index_patterns": [format!("{}-*", self.name)],
            "priority": priority,
            "template": {"settings": {"index": self.index_settings()}, "mappings": self.mappings()},
            "_meta": {"managed-by": "commerce-pipeline"},
        })
    }
}

/// The same value with object keys sorted, so that equal mappings hash alike.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let sorted: std::collections::BTreeMap<_, _> = object.iter().collect();
            Value::Object(
                sorted
                    .into_iter()
                    .map(|(name, value)| (name.clone(), canonical(value)))
                    .collect(),
            )
        }
        Value::Array(items) => items.iter().map(canonical).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_of_the_alias_is_known_by_its_name() {
        let spec = IndexSpec::new("orders");
        assert!(spec.owns("orders-0a1b2c3d-1") && spec.owns(&spec.wanted_index()));
        for other in [
            "orders",
            "orders-2",
            "orders-eu-0a1b2c3d-1",
            "orders-0a1b2c3d-",
            "orders-0a1b2c3x-1",
            "x-0a1b2c3d-1",
        ] {
            assert!(!spec.owns(other), "{other}");
        }
    }

    #[test]
    fn the_hash_follows_the_mapping_and_not_the_order_of_its_fields() {
        let mut one = IndexSpec::new("orders");
        one.properties
            .insert("note".into(), json!({"type": "text", "index": false}));
        let mut two = IndexSpec::new("orders");
        two.properties
            .insert("note".into(), json!({"index": false, "type": "text"}));
        assert_eq!(one.hash(), two.hash());
        assert_ne!(one.hash(), IndexSpec::new("orders").hash());
        two.replicas = 2;
        assert_eq!(
            one.hash(),
            two.hash(),
            "replicas can change while the index lives"
        );
    }
}
