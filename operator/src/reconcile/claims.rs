//! Two pipelines that claim the same topics, the same index or the same database: the older one has it, by creation time and
//! then by uid, and the younger one touches nothing of it until the older one is gone.
//!
//! Pipelines are compared by what their specs resolve to, addresses included, in all namespaces that this operator serves.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    Api, CustomResourceExt as _, ResourceExt as _,
    api::{DynamicObject, ListParams},
};

use super::{
    error::Error,
    secrets::Secrets,
    status::{INDEX, SCHEMA, TOPICS},
    validate::{self, address},
};
use crate::{context::Context, crd::CommercePipeline};

/// Pipelines are listed so many at a time.
const PAGE: u32 = 50;

/// What a pipeline claims in Kafka and Elasticsearch, as its spec tells.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claims {
    /// Brokers, and what the topics' names start with.
    topics: (BTreeSet<String>, String),
    /// Address and alias.
    index: (Option<String>, String),
}

/// A pipeline that claims something.
#[derive(Clone, Debug)]
pub struct Claimant {
    resource: CommercePipeline,
    claims: Claims,
}

/// Something that an older pipeline has claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The condition that tells it.
    pub step: &'static str,
    /// Namespace and name.
    pub holder: String,
    pub message: String,
}

fn claims(resource: &CommercePipeline) -> Claims {
    let (spec, namespace) = (&resource.spec, resource.namespace().unwrap_or_default());
    let brokers = address::brokers(&spec.kafka.bootstrap_servers, &namespace);
    Claims {
        topics: (brokers.into_iter().collect(), spec.kafka.topics.prefix.clone()),
        index: (
            address::search(&spec.elasticsearch.url, &namespace),
            spec.elasticsearch.index.name.clone(),
        ),
    }
}

/// Which of two is older.
pub(super) fn rank(resource: &CommercePipeline) -> (Option<Time>, String) {
    let created = resource.metadata.creation_timestamp.clone();
    (created, resource.uid().unwrap_or_default())
}

/// What older pipelines have claimed of what this one does.
pub async fn conflicts(resource: &CommercePipeline, context: &Context) -> Result<Vec<Conflict>, Error> {
    let own = claims(resource);
    let mut found = Vec::new();
    let all = claimants(resource, context).await?;
    let older = all
        .iter()
        .filter(|other| other.resource.uid() != resource.uid() && rank(&other.resource) < rank(resource));
    let database = database_of(resource, true, context).await?;
    for other in older {
        let holder = format!(
            "{}/{}",
            other.resource.namespace().unwrap_or_default(),
            other.resource.name_any()
        );
        let mut claimed = |step, what: String, advice: &str| {
            let message = format!(
                "the pipeline {holder} is older and has {what}: {advice}, or delete {holder}; nothing of it is touched meanwhile"
            );
            let holder = holder.clone();
            found.push(Conflict {
                step,
                holder,
                message,
            });
        };
        let ((brokers, prefix), (others, its)) = (&own.topics, &other.claims.topics);
        if prefix == its && !brokers.is_disjoint(others) {
            let what = format!("the topics {prefix}order.created and so on on the same Kafka");
            claimed(TOPICS, what, "choose another kafka.topics.prefix");
        }
        if own.index == other.claims.index && own.index.0.is_some() {
            let what = format!("the alias {} in the same Elasticsearch", own.index.1);
            claimed(INDEX, what, "choose another elasticsearch.index.name");
        }
        if database.is_some() && database_of(&other.resource, false, context).await? == database {
            let advice = "name another database in the Secret of postgres.secretRef";
            claimed(SCHEMA, "the same database in PostgreSQL".to_owned(), advice);
        }
    }
    Ok(found)
}

/// All pipelines that this operator serves. They are listed anew unless a moment ago this one was among them as it is now:
/// then all that are older were, too.
async fn claimants(resource: &CommercePipeline, context: &Context) -> Result<Arc<Vec<Claimant>>, Error> {
    let is_in = |all: &Arc<Vec<Claimant>>| {
        all.iter().any(|known| {
            known.resource.uid() == resource.uid()
                && known.resource.metadata.generation >= resource.metadata.generation
        })
    };
    if let Some(all) = context.memory.claimants().filter(is_in) {
        return Ok(all);
    }
    let kind = CommercePipeline::api_resource();
    let client = || context.client.clone();
    let mut apis: Vec<Api<DynamicObject>> = context
        .namespaces
        .iter()
        .map(|namespace| Api::namespaced_with(client(), namespace, &kind))
        .collect();
    if apis.is_empty() {
        apis.push(Api::all_with(client(), &kind));
    }
    let mut all = Vec::new();
    for api in apis {
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = api.list(&page).await;
            let list = list.map_err(|source| Error::FetchFailed {
                what: "the other pipelines",
                source,
            })?;
            // What one claims that can't be read is not known.
            all.extend(list.items.into_iter().filter_map(claimant));
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => break,
            }
        }
    }
    let all = Arc::new(all);
    context.memory.claimed(Arc::clone(&all));
    Ok(all)
}

/// What is remembered of a pipeline: neither its status nor who has changed it.
fn claimant(object: DynamicObject) -> Option<Claimant> {
    let mut resource: CommercePipeline = object.try_parse().ok()?;
    resource.status = None;
    resource.managed_fields_mut().clear();
    Some(Claimant {
        claims: claims(&resource),
        resource,
    })
}

/// Where a pipeline's tables are; `None` where its Secret does not tell. It is read once for each generation of another's
/// spec: a Secret that changes leads to a pass over the pipeline that names it, and that one reads it again.
async fn database_of(
    resource: &CommercePipeline,
    own: bool,
    context: &Context,
) -> Result<Option<String>, Error> {
    let uid = resource.uid().unwrap_or_default();
    let generation = resource.metadata.generation.unwrap_or_default();
    if !own && let Some(known) = context.memory.database(&uid, generation) {
        return Ok(known);
    }
    let namespace = resource.namespace().unwrap_or_default();
    let secret = &resource.spec.postgres.secret_ref.name;
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let found = api.get_opt(secret).await.map_err(|source| Error::FetchFailed {
        what: "the Secret of another pipeline's PostgreSQL",
        source,
    })?;
    let secrets = Secrets::new(found);
    let found = validate::database(&resource.spec.postgres, &namespace, &secrets).ok();
    let database = found.map(|(_, options)| address::database(&options));
    context.memory.has_database(&uid, generation, database.clone());
    Ok(database)
}

/// All conflicts in one text.
#[must_use]
pub fn list(conflicts: &[Conflict]) -> String {
    let told: Vec<_> = conflicts
        .iter()
        .map(|conflict| conflict.message.as_str())
        .collect();
    told.join("; ")
}
