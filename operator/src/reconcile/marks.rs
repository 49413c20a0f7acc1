//! Whose the stores are, by the marks in them.
//!
//! `claims` compares the pipelines that an operator can see. Two operators, of two clusters for instance, don't see each
//! other's, and a store may have two names; so each store bears the mark of the pipeline that uses it. It is set before the
//! store is touched, and read again before each write:
//!
//! - The mark of another cluster's pipeline is a conflict. The annotation `commerce.lab/adopt-external: "true"` takes it over.
//! - Of two pipelines of one cluster the older one has it, and one that is gone has nothing.
//! - PostgreSQL's mark holds the generation of the spec, and goes up only: an operator that was replaced and goes on with what
//!   it read before is refused, whatever it was about to write, and into which store.

use commerce_core::owner::{Mark, Owner};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt as _};

use super::{
    claims::rank,
    error::Error,
    fetch::{self, Read},
    names::ADOPT,
    status::{INDEX, SCHEMA},
    validate::{Elasticsearch, Pipeline, Postgres},
};
use crate::{context::Context, crd::CommercePipeline};

/// The namespace that every cluster has, whose uid is the cluster's.
const OF_CLUSTER: &str = "kube-system";
/// How often another may be faster.
const ATTEMPTS: usize = 3;

/// The pipeline's own mark, and what it takes to set it.
#[derive(Debug)]
pub struct Marks<'a> {
    pub own: Owner,
    pub resource: &'a CommercePipeline,
    pub context: &'a Context,
}

/// What to do about a mark.
enum Verdict {
    /// It is ours, or there is no place for one.
    Fine,
    /// It is to be set, in place of this one.
    Set(Option<Owner>),
    Refused(Error),
}

impl<'a> Marks<'a> {
    pub async fn of(resource: &'a CommercePipeline, context: &'a Context) -> Result<Self, Error> {
        let namespace = resource.namespace().unwrap_or_default();
        let own = Owner {
            uid: resource.uid().unwrap_or_default(),
            cluster: cluster(&namespace, context).await?,
            namespace,
            name: resource.name_any(),
            generation: resource.metadata.generation.unwrap_or_default(),
        };
        Ok(Self {
            own,
            resource,
            context,
        })
    }

    /// Sets the marks of both stores, or tells in which condition why not.
    pub async fn set(&self, pipeline: &Pipeline) -> Result<(), (&'static str, Error)> {
        let schema = self.set_schema(&pipeline.postgres).await;
        schema.map_err(|error| (SCHEMA, error))?;
        let index = self.set_index(&pipeline.elasticsearch).await;
        index.map_err(|error| (INDEX, error))
    }

    /// Sets PostgreSQL's mark, and so makes sure that no newer spec was carried out.
    pub async fn set_schema(&self, postgres: &Postgres) -> Result<(), Error> {
        let (stores, failed) = (&self.context.stores, Error::MigrationFailed);
        for _ in 0..ATTEMPTS {
            let found = stores.schema_mark(&postgres.connect).await;
            let found = found.map_err(|error| failed(format!("reading whose the tables are: {error}")))?;
            let set = match self.judge(found, true).await? {
                Verdict::Fine => return Ok(()),
                Verdict::Refused(error) => return Err(error),
                Verdict::Set(found) => {
                    let work = stores.mark_schema(&postgres.connect, &self.own, found.as_ref());
                    self.context.write(work, failed).await?
                }
            };
            if set {
                return Ok(());
            }
        }
        Err(failed("others change whose the tables are".to_owned()))
    }

    async fn set_index(&self, elasticsearch: &Elasticsearch) -> Result<(), Error> {
        let (stores, failed) = (&self.context.stores, Error::IndexFailed);
        for _ in 0..ATTEMPTS {
            let found = stores.index_mark(elasticsearch).await;
            let found = found.map_err(|error| failed(format!("reading whose the index is: {error}")))?;
            let set = match self.judge(found, false).await? {
                Verdict::Fine => return Ok(()),
                Verdict::Refused(error) => return Err(error),
                Verdict::Set(found) => {
                    let work = stores.mark_index(elasticsearch, &self.own, found.is_none());
                    self.context.write(work, failed).await?
                }
            };
            if set {
                return Ok(());
            }
        }
        Err(failed("others change whose the index is".to_owned()))
    }

    async fn judge(&self, found: Mark, is_schema: bool) -> Result<Verdict, Error> {
        let found = match found {
            Mark::Unmarkable => return Ok(Verdict::Fine),
            Mark::Free => return Ok(Verdict::Set(None)),
            Mark::Of(found) => found,
        };
        let own = &self.own;
        let (what, advice) = if is_schema {
            (
                "the tables in PostgreSQL",
                "name another database in the Secret of postgres.secretRef",
            )
        } else {
            (
                "the index in Elasticsearch",
                "choose another elasticsearch.index.name",
            )
        };
        if found.uid == own.uid && (!is_schema || found.generation == own.generation) {
            return Ok(Verdict::Fine);
        }
        let newer = found.uid == own.uid && found.generation > own.generation;
        if adopts(self.resource) || found.uid == own.uid && !newer {
            return Ok(Verdict::Set(Some(found)));
        }
        if newer {
            return Ok(Verdict::Refused(Error::Superseded(format!(
                "{what} were made for generation {} of this pipeline, and this is {}: another operator works on a newer one, and nothing is written into the stores. If the cluster was restored from a backup, annotate the pipeline with {ADOPT}=true until it is Ready",
                found.generation, own.generation
            ))));
        }
        if self.is_ours_to_take(&found).await? {
            return Ok(Verdict::Set(Some(found)));
        }
        Ok(Verdict::Refused(Error::Conflict(format!(
            "{what} are marked as those of the pipeline {}/{} (uid {}){}: {advice}, or delete that one; nothing of it is touched meanwhile. If that pipeline is gone for good, annotate this one with {ADOPT}=true until it is Ready",
            found.namespace,
            found.name,
            found.uid,
            if found.cluster == own.cluster {
                ""
            } else {
                " of another cluster"
            },
        ))))
    }

    /// Whether the holder is of this cluster, and gone or younger.
    async fn is_ours_to_take(&self, holder: &Owner) -> Result<bool, Error> {
        if holder.cluster != self.own.cluster {
            return Ok(false);
        }
        let found = fetch::resource(&self.context.client, &holder.namespace, &holder.name).await?;
        Ok(match found {
            Read::Gone => true,
            Read::Resource(other) => {
                other.uid().as_deref() != Some(&holder.uid) || rank(self.resource) < rank(&other)
            }
            Read::Unreadable(other, _) => other.uid().as_deref() != Some(&holder.uid),
        })
    }
}

/// What tells this cluster from others: the uid of a namespace that every cluster has. An operator that may look at nothing but
/// its own namespaces takes the pipeline's.
async fn cluster(namespace: &str, context: &Context) -> Result<String, Error> {
    if let Some(known) = context.memory.cluster(namespace) {
        return Ok(known);
    }
    let found = match uid_of(OF_CLUSTER, &context.client).await {
        Err(kube::Error::Api(status)) if status.is_forbidden() => uid_of(namespace, &context.client).await,
        other => other,
    };
    let found = found.map_err(|source| Error::FetchFailed {
        what: "the uid of the cluster's namespace",
        source,
    })?;
    context.memory.is_of_cluster(namespace, &found);
    Ok(found)
}

async fn uid_of(namespace: &str, client: &Client) -> Result<String, kube::Error> {
    let api: Api<Namespace> = Api::all(client.clone());
    Ok(api.get_metadata(namespace).await?.uid().unwrap_or_default())
}

/// Whether a pipeline takes over what is marked as another one's.
fn adopts(resource: &CommercePipeline) -> bool {
    let annotation = resource.annotations().get(ADOPT);
    annotation.is_some_and(|value| value == "true")
}

/// Whose a store is, if a pipeline that goes must leave it alone for that.
#[must_use]
pub fn another(mark: Mark, resource: &CommercePipeline) -> Option<String> {
    match mark {
        Mark::Of(owner) if Some(&owner.uid) != resource.metadata.uid.as_ref() && !adopts(resource) => {
            Some(format!(
                "marked as that of the pipeline {}/{} (uid {})",
                owner.namespace, owner.name, owner.uid
            ))
        }
        _ => None,
    }
}
