//! What Elasticsearch has of a pipeline, and how that differs from the spec.

use std::collections::BTreeMap;

use elasticsearch::{
    CountParts, Elasticsearch,
    indices::{IndicesGetAliasParts, IndicesGetIndexTemplateParts, IndicesGetParts},
};
use serde_json::{Value, json};

use super::IndexSpec;
use crate::{
    drift::{Difference, flat, leaves},
    elasticsearch::{Error, body_if_found},
};

/// What there is of template, alias and indices.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    pub template: Option<Value>,
    /// The indices behind the alias, and those that were made for it, with their aliases, settings and mappings.
    pub indices: BTreeMap<String, Value>,
}

/// Reads it; changes nothing.
pub async fn read(client: &Elasticsearch, spec: &IndexSpec) -> Result<Found, Error> {
    let answer = client
        .indices()
        .get_index_template(IndicesGetIndexTemplateParts::Name(&spec.name))
        .send()
        .await;
    let template = body_if_found("read the index template", answer).await?;
    let template = template.map(|mut found| found["index_templates"][0]["index_template"].take());
    let pattern = format!("{}-*", spec.name);
    let answer = client
        .indices()
        .get(IndicesGetParts::Index(&[&spec.name, &pattern]))
        .flat_settings(true)
        .ignore_unavailable(true)
        .allow_no_indices(true)
        .send()
        .await;
    let found = body_if_found("read the indices", answer)
        .await?
        .unwrap_or_default();
    let indices = found.as_object().cloned().unwrap_or_default();
    let is_ours = |(name, index): &(String, Value)| spec.owns(name) || is_behind(index, &spec.name);
    Ok(Found {
        template,
        indices: indices.into_iter().filter(is_ours).collect(),
    })
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

/// How many documents of an index searches find; `None` where there is no such index.
pub async fn count(client: &Elasticsearch, index: &str) -> Result<Option<u64>, Error> {
    let answer = client.count(CountParts::Index(&[index])).send().await;
    let found = body_if_found("count the documents", answer).await?;
    Ok(found.and_then(|value| value["count"].as_u64()))
}

impl Found {
    /// What there is when all is as the spec says.
    #[must_use]
    pub fn as_wanted(spec: &IndexSpec) -> Self {
        let index = json!({
            "aliases": {&spec.name: {"is_write_index": true}},
            "settings": {"index": spec.index_settings()},
            "mappings": spec.mappings(),
        });
        Self {
            template: Some(spec.template()),
            indices: [(spec.wanted_index(), index)].into(),
        }
    }

    /// The indices behind the alias.
    #[must_use]
    pub fn behind(&self, alias: &str) -> Vec<&str> {
        let behind = self.indices.iter().filter(|(_, index)| is_behind(index, alias));
        behind.map(|(name, _)| name.as_str()).collect()
    }

    /// Of the indices behind the alias, the one that is written to: the one with the wanted mapping, else one that was made
    /// for the alias, else whatever it is.
    #[must_use]
    pub fn active(&self, spec: &IndexSpec) -> Option<&str> {
        let behind = self.behind(&spec.name);
        let first = |fits: &dyn Fn(&str) -> bool| behind.iter().copied().find(|index| fits(index));
        first(&|index| spec.fits(index))
            .or_else(|| first(&|index| spec.owns(index)))
            .or_else(|| first(&|_| true))
    }

    /// Where it is not as the spec says. An index with the mapping of an earlier spec is no difference: the spec has changed,
    /// not the index.
    #[must_use]
    pub fn differences(&self, spec: &IndexSpec) -> Vec<Difference> {
        let mut all = self.of_template(spec);
        let alias = format!("alias {}", spec.name);
        let Some(active) = self.active(spec) else {
            all.push(Difference::missing(alias));
            return all;
        };
        let wanted = if spec.owns(active) {
            active.to_owned()
        } else {
            spec.wanted_index()
        };
        let behind = self.behind(&spec.name);
        if behind != [wanted.as_str()] {
            let field = Difference::field(alias, "index", Some(behind.join(",")), Some(wanted));
            all.push(if spec.owns(active) {
                field
            } else {
                field.that_stays(format!("fill an index of the pipeline's and move the alias back: see `indexer rebuild` in docs/operations.md, --into {}", spec.wanted_index()))
            });
        }
        if spec.fits(active) {
            all.extend(self.of_settings(spec, active));
            all.extend(self.of_mapping(spec, active));
        }
        all
    }

    pub(super) fn of_template(&self, spec: &IndexSpec) -> Vec<Difference> {
        let object = format!("index template {}", spec.name);
        match &self.template {
            None => vec![Difference::missing(object)],
            Some(found) => {
                let wanted = spec.template();
                let mut all = leaves(&object, found, &wanted);
                // What is not asked for any more would be in the next index all the same.
                let of_indices = |template: &Value| flat(&json!({ "template": template["template"] }));
                let wanted = of_indices(&wanted);
                let more = of_indices(found).into_iter();
                let more = more.filter(|(name, _)| !wanted.contains_key(name));
                all.extend(more.map(|(name, is)| Difference::field(object.clone(), name, Some(is), None)));
                all
            }
        }
    }

    pub(super) fn of_settings(&self, spec: &IndexSpec, index: &str) -> Vec<Difference> {
        let found = self
            .indices
            .get(index)
            .map_or(&Value::Null, |index| &index["settings"]);
        let wanted = json!({"index": spec.changeable_settings()});
        leaves(&format!("index {index}"), found, &wanted)
    }

    /// Fields and their types; of the rest, Elasticsearch gives back in words of its own what it was given.
    fn of_mapping(&self, spec: &IndexSpec, index: &str) -> Vec<Difference> {
        let found = self
            .indices
            .get(index)
            .map_or(&Value::Null, |index| &index["mappings"]);
        let advice = "a field of an index can't be changed: fill a new one with `indexer rebuild`";
        let wanted = spec.mappings();
        let kind = |field: &Value| match &field["type"] {
            Value::String(kind) => kind.clone(),
            _ => "object".to_owned(),
        };
        let kinds = |mapping: &Value| -> BTreeMap<String, String> {
            let fields = mapping["properties"].as_object().into_iter().flatten();
            fields.map(|(name, field)| (name.clone(), kind(field))).collect()
        };
        let (is, says) = (kinds(found), kinds(&wanted));
        let mut all = Vec::new();
        if found["dynamic"] != wanted["dynamic"] {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            all.push((
                "dynamic".to_owned(),
                text(&found["dynamic"]),
                text(&wanted["dynamic"]),
            ));
        }
        for name in is
            .keys()
            .chain(says.keys().filter(|name| !is.contains_key(*name)))
        {
            if is.get(name) != says.get(name) {
                all.push((
                    format!("field {name}"),
                    is.get(name).cloned(),
                    says.get(name).cloned(),
                ));
            }
        }
        let object = format!("index {index}");
        let told = |(name, is, says)| Difference::field(object.clone(), name, is, says).that_stays(advice);
        all.into_iter().map(told).collect()
    }
}

fn is_behind(index: &Value, alias: &str) -> bool {
    index["aliases"].get(alias).is_some()
}
