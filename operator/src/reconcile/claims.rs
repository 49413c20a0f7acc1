//! Two pipelines that claim the same topics, the same index or the same database: the older one has it, by creation time and
//! then by uid, and the younger one touches nothing of it until the older one is gone.
//!
//! Pipelines are compared by what their specs resolve to, addresses included, in all namespaces that this operator serves.

use std::{collections::BTreeSet, sync::Arc};

use futures::{TryStreamExt as _, stream};
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
use crate::{
    context::Context,
    crd::{CommercePipeline, PostgresSpec},
};

/// Pipelines are listed so many at a time.
const PAGE: u32 = 50;
/// Secrets that are read at the same time.
const AT_ONCE: usize = 8;

/// What a pipeline claims in Kafka and Elasticsearch, as its spec tells.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claims {
    /// Brokers, and what the topics' names start with.
    topics: (BTreeSet<String>, String),
    /// Address and alias.
    index: (Option<String>, String),
}

/// What is remembered of a pipeline that claims something.
#[derive(Clone, Debug)]
pub struct Claimant {
    namespace: String,
    name: String,
    generation: i64,
    rank: Rank,
    postgres: PostgresSpec,
    claims: Claims,
}

/// When a pipeline was created, and its uid: the smaller, the older.
pub(super) type Rank = (Option<Time>, String);

/// Something that an older pipeline has claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The condition that tells it.
    pub step: &'static str,
    /// Namespace and name.
    pub holder: String,
    pub message: String,
}

impl Claimant {
    fn of(resource: &CommercePipeline) -> Self {
        let (spec, namespace) = (&resource.spec, resource.namespace().unwrap_or_default());
        let brokers = address::brokers(&spec.kafka.bootstrap_servers, &namespace);
        let claims = Claims {
            topics: (brokers.into_iter().collect(), spec.kafka.topics.prefix.clone()),
            index: (
                address::search(&spec.elasticsearch.url, &namespace),
                spec.elasticsearch.index.name.clone(),
            ),
        };
        Self {
            namespace,
            name: resource.name_any(),
            generation: resource.metadata.generation.unwrap_or_default(),
            rank: rank(resource),
            postgres: spec.postgres.clone(),
            claims,
        }
    }

    fn uid(&self) -> &str {
        &self.rank.1
    }
}

/// Which of two is older.
pub(super) fn rank(resource: &CommercePipeline) -> Rank {
    let created = resource.metadata.creation_timestamp.clone();
    (created, resource.uid().unwrap_or_default())
}

/// What older pipelines have claimed of what this one does.
pub async fn conflicts(resource: &CommercePipeline, context: &Context) -> Result<Vec<Conflict>, Error> {
    let own = Claimant::of(resource);
    let mut found = Vec::new();
    let database = database_of(&own, context).await?;
    let is_older = |other: &&Claimant| other.rank < own.rank;
    let all = {
        let _turn = context.memory.turn_to_list().await;
        let all = claimants(&own, context).await?;
        if database.is_some() {
            databases_of(all.iter().filter(is_older), context).await?;
        }
        all
    };
    let own = &own.claims;
    for other in all.iter().filter(is_older) {
        let holder = format!("{}/{}", other.namespace, other.name);
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
        let its = context.memory.database(other.uid(), other.generation);
        if database.is_some() && its == Some(database.clone()) {
            let advice = "name another database in the Secret of postgres.secretRef";
            claimed(SCHEMA, "the same database in PostgreSQL".to_owned(), advice);
        }
    }
    Ok(found)
}

/// All pipelines that this operator serves. They are listed anew unless a moment ago this one was among them as it is now:
/// then all that are older were, too.
async fn claimants(own: &Claimant, context: &Context) -> Result<Arc<Vec<Claimant>>, Error> {
    let is_in = |all: &Arc<Vec<Claimant>>| {
        all.iter()
            .any(|known| known.uid() == own.uid() && known.generation >= own.generation)
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
            let read = |object: DynamicObject| object.try_parse().ok();
            all.extend(
                list.items
                    .into_iter()
                    .filter_map(read)
                    .map(|read| Claimant::of(&read)),
            );
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

/// Finds out where the tables of pipelines are, of those of which it is not known. It is read once for each generation of a
/// spec: a Secret that changes leads to a pass over the pipeline that names it, and that one reads it again.
async fn databases_of(claimants: impl Iterator<Item = &Claimant>, context: &Context) -> Result<(), Error> {
    let is_unknown = |it: &&Claimant| context.memory.database(it.uid(), it.generation).is_none();
    stream::iter(claimants.filter(is_unknown).map(Ok))
        .try_for_each_concurrent(AT_ONCE, async |it| database_of(it, context).await.map(drop))
        .await
}

/// Where a pipeline's tables are; `None` where its Secret does not tell.
async fn database_of(claimant: &Claimant, context: &Context) -> Result<Option<String>, Error> {
    let Claimant {
        namespace, postgres, ..
    } = claimant;
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let found = api.get_opt(&postgres.secret_ref.name).await;
    let found = found.map_err(|source| Error::FetchFailed {
        what: "the Secret of a pipeline's PostgreSQL",
        source,
    })?;
    let secrets = Secrets::new(found);
    let found = validate::database(postgres, namespace, &secrets).ok();
    let database = found.map(|(_, options)| address::database(&options));
    let (uid, generation) = (claimant.uid(), claimant.generation);
    context.memory.has_database(uid, generation, database.clone());
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
