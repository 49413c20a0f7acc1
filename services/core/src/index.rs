//! The orders index: its mapping, and how template, index and alias are brought about.
//!
//! A concrete index is called `<alias>-<hash of mappings and fixed settings>-<n>`, so that its name tells whether it has
//! the mapping that is wanted. Everybody reads and writes through the alias.

use elasticsearch::{
    Elasticsearch,
    indices::{
        IndicesCreateParts, IndicesDeleteIndexTemplateParts, IndicesDeleteParts, IndicesGetAliasParts,
        IndicesGetIndexTemplateParts, IndicesGetSettingsParts, IndicesPutIndexTemplateParts,
        IndicesPutSettingsParts,
    },
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::elasticsearch::{Error, body, body_if_found};

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
    /// The alias points at an index with another mapping; nothing was changed.
    MappingDiffers { active: String, wanted: String },
}

impl IndexSpec {
    /// One shard, no replicas, refreshed every second.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            shards: 1,
            replicas: 0,
            refresh_interval: "1s".to_owned(),
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

    fn wanted_index(&self) -> String {
        format!("{}-{}-1", self.name, self.hash())
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

/// Brings template, index and alias about; safe to run again and at the same time elsewhere. An index with another
/// mapping is left alone and reported.
pub async fn ensure(client: &Elasticsearch, spec: &IndexSpec) -> Result<IndexState, Error> {
    put_template(client, spec).await?;
    let wanted = spec.wanted_index();
    match active_index(client, &spec.name).await? {
        None => {
            let created = create_index(client, spec, &wanted).await?;
            Ok(IndexState::Active {
                index: wanted,
                created,
            })
        }
        Some(active) if active.starts_with(&format!("{}-{}-", spec.name, spec.hash())) => {
            correct_settings(client, spec, &active).await?;
            Ok(IndexState::Active {
                index: active,
                created: false,
            })
        }
        Some(active) => Ok(IndexState::MappingDiffers { active, wanted }),
    }
}

/// The index behind an alias.
pub async fn active_index(client: &Elasticsearch, alias: &str) -> Result<Option<String>, Error> {
    let answer = client
        .indices()
        .get_alias(IndicesGetAliasParts::Name(&[alias]))
        .send()
        .await;
    let found = body_if_found("read the alias", answer).await?;
    Ok(found.and_then(|value| {
        value
            .as_object()
            .and_then(|indices| indices.keys().next().cloned())
    }))
}

/// Removes template, alias and every index behind the alias; what is missing already is fine.
pub async fn delete(client: &Elasticsearch, alias: &str) -> Result<(), Error> {
    while let Some(index) = active_index(client, alias).await? {
        let answer = client
            .indices()
            .delete(IndicesDeleteParts::Index(&[&index]))
            .send()
            .await;
        body_if_found("delete the index", answer).await?;
    }
    let answer = client
        .indices()
        .delete_index_template(IndicesDeleteIndexTemplateParts::Name(alias))
        .send()
        .await;
    body_if_found("delete the index template", answer).await?;
    Ok(())
}

async fn put_template(client: &Elasticsearch, spec: &IndexSpec) -> Result<(), Error> {
    // Where one pipeline's name is the beginning of another's, both patterns match the longer one's indices and the
    // longer one must win.
    let priority = 200 + spec.name.len();
    let template = json!({
        "index_patterns": [format!("{}-*", spec.name)],
        "priority": priority,
        "template": {"settings": {"index": spec.index_settings()}, "mappings": spec.mappings()},
        "_meta": {"managed-by": "commerce-pipeline"},
    });
    let parts = IndicesPutIndexTemplateParts::Name(&spec.name);
    let answer = client
        .indices()
        .put_index_template(parts)
        .body(template)
        .send()
        .await;
    body("put the index template", answer).await?;
    Ok(())
}

/// Creates index and alias in one call; `false` where somebody else was faster.
async fn create_index(client: &Elasticsearch, spec: &IndexSpec, index: &str) -> Result<bool, Error> {
    let definition = json!({
        "settings": {"index": spec.index_settings()},
        "mappings": spec.mappings(),
        "aliases": {&spec.name: {"is_write_index": true}},
    });
    put_index(client, index, definition).await
}

/// Creates an index that the alias does not point at, with the mapping and settings that the template has now, whatever
/// the index is called; `false` where it exists.
pub async fn create_beside(client: &Elasticsearch, alias: &str, index: &str) -> Result<bool, Error> {
    let answer = client
        .indices()
        .get_index_template(IndicesGetIndexTemplateParts::Name(alias))
        .send()
        .await;
    let found = body("read the index template", answer).await?;
    let template = &found["index_templates"][0]["index_template"]["template"];
    let definition = json!({"settings": template["settings"], "mappings": template["mappings"]});
    put_index(client, index, definition).await
}

async fn put_index(client: &Elasticsearch, index: &str, definition: Value) -> Result<bool, Error> {
    let answer = client
        .indices()
        .create(IndicesCreateParts::Index(index))
        .body(definition)
        .send()
        .await;
    match body("create the index", answer).await {
        Ok(_) => Ok(true),
        Err(Error::Refused {
            status: 400, reason, ..
        }) if reason.contains("already exists") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes the changeable settings where they differ.
async fn correct_settings(client: &Elasticsearch, spec: &IndexSpec, index: &str) -> Result<(), Error> {
    let answer = client
        .indices()
        .get_settings(IndicesGetSettingsParts::Index(&[index]))
        .send()
        .await;
    let found = body("read the index settings", answer).await?;
    let actual = &found[index]["settings"]["index"];
    let wanted = spec.changeable_settings();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let same = wanted.as_object().is_none_or(|settings| {
        settings
            .iter()
            .all(|(name, value)| actual.get(name).is_some_and(|found| text(found) == text(value)))
    });
    if !same {
        let parts = IndicesPutSettingsParts::Index(&[index]);
        let answer = client
            .indices()
            .put_settings(parts)
            .body(json!({"index": wanted}))
            .send()
            .await;
        body("write the index settings", answer).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
