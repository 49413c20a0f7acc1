//! How template, index and alias are brought about and removed.

use elasticsearch::{
    Elasticsearch,
    indices::{
        IndicesCreateParts, IndicesDeleteIndexTemplateParts, IndicesDeleteParts,
        IndicesGetIndexTemplateParts, IndicesPutIndexTemplateParts, IndicesPutSettingsParts,
    },
};
use serde_json::{Value, json};

use super::{Found, IndexSpec, IndexState, next_alias, read};
use crate::elasticsearch::{Error, body, body_if_found};

/// Brings template, index and alias about, and writes only what differs; safe to run again and at the same time elsewhere.
/// An alias that leads to an index with another mapping is left alone and reported.
pub async fn ensure(client: &Elasticsearch, spec: &IndexSpec) -> Result<IndexState, Error> {
    let found = read(client, spec).await?;
    if !found.of_template(spec).is_empty() {
        put_template(client, spec).await?;
    }
    let wanted = spec.wanted_index();
    let Some(active) = found.active(spec) else {
        return begin(client, spec, &found).await;
    };
    if !spec.owns(active) {
        let active = active.to_owned();
        return Ok(IndexState::MappingDiffers { active, wanted });
    }
    let behind = found.behind(&spec.name);
    if behind != [active] {
        // Somebody has pointed the alias at others, too.
        let others: Vec<_> = behind.into_iter().filter(|index| *index != active).collect();
        let remove = |index: &&str| json!({"remove": {"index": index, "alias": spec.name}});
        let mut actions: Vec<_> = others.iter().map(remove).collect();
        actions.push(add(active, &spec.name));
        update_aliases(client, actions).await?;
    }
    if !spec.fits(active) {
        let active = active.to_owned();
        return Ok(IndexState::MappingDiffers { active, wanted });
    }
    if !found.of_settings(spec, active).is_empty() {
        let parts = IndicesPutSettingsParts::Index(&[active]);
        let settings = json!({"index": spec.changeable_settings()});
        let answer = client.indices().put_settings(parts).body(settings).send().await;
        body("write the index settings", answer).await?;
    }
    Ok(IndexState::Active {
        index: active.to_owned(),
        created: false,
    })
}

/// The alias is missing. Where an index was made for it, only the alias has gone.
async fn begin(client: &Elasticsearch, spec: &IndexSpec, found: &Found) -> Result<IndexState, Error> {
    let wanted = spec.wanted_index();
    let made = |fits: &dyn Fn(&str) -> bool| found.indices.keys().find(|index| fits(index)).cloned();
    let Some(index) = made(&|index| spec.fits(index)).or_else(|| made(&|_| true)) else {
        let created = create_index(client, spec, &wanted).await?;
        return Ok(IndexState::Active {
            index: wanted,
            created,
        });
    };
    update_aliases(client, vec![add(&index, &spec.name)]).await?;
    Ok(if spec.fits(&index) {
        IndexState::Active {
            index,
            created: false,
        }
    } else {
        IndexState::MappingDiffers {
            active: index,
            wanted,
        }
    })
}

/// Lets an alias lead to this index alone.
pub async fn move_alias(client: &Elasticsearch, alias: &str, index: &str) -> Result<(), Error> {
    let remove = json!({"remove": {"index": "*", "alias": alias, "must_exist": false}});
    update_aliases(client, vec![remove, add(index, alias)]).await
}

/// Lets the alias lead to an index that has taken all live events while it was filled, and to no other, in one step. False
/// where it is not the [next](next_alias) one any more: then nothing is changed.
pub async fn promote(client: &Elasticsearch, alias: &str, index: &str) -> Result<bool, Error> {
    let next = json!({"remove": {"index": index, "alias": next_alias(alias), "must_exist": true}});
    let others = json!({"remove": {"index": "*", "alias": alias, "must_exist": false}});
    match update_aliases(client, vec![next, others, add(index, alias)]).await {
        Err(error) if error.status() == Some(404) => Ok(false),
        other => other.map(|()| true),
    }
}

/// Deletes an index with all its documents; one that is gone already is fine.
pub async fn delete_index(client: &Elasticsearch, index: &str) -> Result<(), Error> {
    let answer = client
        .indices()
        .delete(IndicesDeleteParts::Index(&[index]))
        .send()
        .await;
    body_if_found("delete the index", answer).await.map(drop)
}

fn add(index: &str, alias: &str) -> Value {
    json!({"add": {"index": index, "alias": alias, "is_write_index": true}})
}

/// All or none of the actions.
async fn update_aliases(client: &Elasticsearch, actions: Vec<Value>) -> Result<(), Error> {
    let answer = client
        .indices()
        .update_aliases()
        .body(json!({"actions": actions}))
        .send()
        .await;
    body("move the alias", answer).await.map(drop)
}

/// Removes template, alias, every index behind the alias, and those that were made for it; what is missing already is fine.
pub async fn delete(client: &Elasticsearch, alias: &str) -> Result<(), Error> {
    for index in read(client, &IndexSpec::new(alias)).await?.indices.keys() {
        delete_index(client, index).await?;
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
    let parts = IndicesPutIndexTemplateParts::Name(&spec.name);
    let answer = client
        .indices()
        .put_index_template(parts)
        .body(spec.template())
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
