//! The end of a pipeline: what the `deletionPolicy` of each store asks for, then the release of the resource.
//!
//! It never hangs for good. A store that is away is tried again, later and later, and told in the status; the annotation
//! `commerce.lab/abandon-external: "true"` gives up on it. A store whose Secret is gone can't be reached ever again, and its
//! data is left. Where the whole namespace goes, the stores may go with it, so they are waited for only for [`PATIENCE`].
//! A store whose data is to be kept need not be there: where it answers, the pipeline's mark is taken off it, so that others may
//! take up what is in it.

use std::time::Duration;

use commerce_core::owner::Mark;
use k8s_openapi::{api::core::v1::Namespace, jiff::Timestamp};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use serde_json::json;

use super::{
    RETRY_CLEANUP, apply, claims,
    error::{Error, Stop},
    events::{self, event},
    fetch, marks,
    names::{ABANDON, FINALIZER},
    secrets::Secrets,
    status::{self, Findings},
    validate::{self, Problem},
};
use crate::{
    context::Context,
    crd::{CommercePipeline, DeletionPolicy, DeletionState, DeletionStatus},
};

/// How long a store may be away while the namespace is being deleted.
const PATIENCE: Duration = Duration::from_mins(1);

/// Whether the resource is kept until its stores are dealt with.
#[must_use]
pub fn is_held(resource: &CommercePipeline) -> bool {
    resource.finalizers().iter().any(|name| name == FINALIZER)
}

/// Keeps the resource until [`finish`] lets it go; false where it is gone already.
pub async fn hold(client: &Client, resource: &CommercePipeline) -> Result<bool, Error> {
    let mut finalizers = resource.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    set(client, resource, &finalizers).await
}

async fn release(client: &Client, resource: &CommercePipeline) -> Result<(), Error> {
    let finalizers: Vec<_> = resource
        .finalizers()
        .iter()
        .filter(|name| *name != FINALIZER)
        .cloned()
        .collect();
    set(client, resource, &finalizers).await.map(drop)
}

/// False where the resource is gone. Its version makes the API server refuse the list if somebody else has changed it meanwhile.
async fn set(client: &Client, resource: &CommercePipeline, finalizers: &[String]) -> Result<bool, Error> {
    let api: Api<CommercePipeline> =
        Api::namespaced(client.clone(), &resource.namespace().unwrap_or_default());
    let version = &resource.metadata.resource_version;
    let patch = json!({ "metadata": { "resourceVersion": version, "finalizers": finalizers } });
    match api
        .patch_metadata(
            &resource.name_any(),
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await
    {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(source) => Err(Error::FinalizerFailed(source)),
    }
}

/// Deals with a resource that is being deleted. Its children go with it, by their owner references.
pub async fn finish(resource: &CommercePipeline, context: &Context) -> Result<Action, Error> {
    if is_held(resource) {
        if let Some(waiting) = Box::pin(clean_up(resource, context)).await? {
            return Ok(waiting);
        }
        Box::pin(unmark(resource, context)).await;
        release(&context.client, resource).await?;
    }
    context.forget(resource);
    Ok(Action::await_change())
}

/// Removes what the pipeline has in the stores; `Some` while something is to be waited for.
async fn clean_up(resource: &CommercePipeline, context: &Context) -> Result<Option<Action>, Error> {
    let mut progress = Store::ALL.map(|store| store.begin(resource));
    let waits = |progress: &DeletionStatus| progress.state == DeletionState::Waiting;
    if !progress.iter().any(waits) {
        return Ok(None);
    }
    // Running services would make the topics anew, and write into what is being removed.
    let observed = fetch::observe(&context.client, resource).await?;
    let live = &observed.live;
    apply::prune(&context.client, &live.deployments, |_| false).await?;
    apply::prune(&context.client, &live.jobs, |_| false).await?;
    if !live.pods.is_empty() {
        let doomed = Store::ALL.into_iter().zip(&progress);
        let doomed: Vec<_> = doomed
            .filter(|(_, progress)| waits(progress))
            .map(|(store, _)| store.what())
            .collect();
        let message = format!(
            "waits for {} pods to stop, then removes {}",
            live.pods.len(),
            doomed.join(", ")
        );
        let stop = Stop::Waiting {
            reason: "Deleting",
            message,
        };
        tell(resource, context, &progress, &stop).await?;
        return Ok(Some(Action::requeue(RETRY_CLEANUP)));
    }

    let secrets = &observed.secrets;
    let conflicts = &claims::conflicts(resource, context).await?;
    let others = &others(resource, secrets, context).await;
    let work = Store::ALL
        .into_iter()
        .zip(&mut progress)
        .filter(|(_, progress)| waits(progress))
        .map(|(store, progress)| async move {
            let claimed = conflicts.iter().find(|conflict| conflict.step == store.step());
            (progress.state, progress.message) = match claimed {
                Some(conflict) => {
                    let whose = format!("it is what the older pipeline {} uses", conflict.holder);
                    (DeletionState::Left, whose)
                }
                None => match others.of(store) {
                    Ok(Some(whose)) => (DeletionState::Left, whose),
                    Ok(None) => remove(store, resource, secrets, context).await?,
                    Err(problem) => (DeletionState::Waiting, problem),
                },
            };
            Ok::<_, Error>(())
        });
    futures::future::join_all(work)
        .await
        .into_iter()
        .collect::<Result<(), Error>>()?;

    if progress.iter().any(waits) {
        if !gives_up(resource, &context.client).await? {
            let message = format!(
                "removing {}. It is tried again; the annotation {ABANDON}=true on the pipeline leaves it where it is",
                list(&progress, DeletionState::Waiting)
            );
            let stop = Stop::Failed(Error::CleanupFailed(message.clone()));
            tell(resource, context, &progress, &stop).await?;
            return Err(Error::CleanupFailed(message));
        }
        for given_up in progress.iter_mut().filter(|progress| waits(progress)) {
            given_up.state = DeletionState::Left;
        }
    }
    let left = list(&progress, DeletionState::Left);
    if !left.is_empty() {
        let (namespace, name) = (resource.namespace().unwrap_or_default(), resource.name_any());
        tracing::warn!(
            namespace,
            name,
            left,
            "a pipeline is gone and has left something behind"
        );
        let note = format!("left behind: {left}");
        let event = event(false, "Abandoned", "Delete", &note);
        events::publish(&context.recorder, resource, vec![event]).await;
    }
    Ok(None)
}

/// Whether what could not be removed is to be left.
async fn gives_up(resource: &CommercePipeline, client: &Client) -> Result<bool, Error> {
    let annotation = resource.annotations().get(ABANDON);
    if annotation.is_some_and(|value| value == "true") {
        return Ok(true);
    }
    let since = resource.metadata.deletion_timestamp.as_ref();
    let patient = since.is_none_or(|since| since.0 + PATIENCE > Timestamp::now());
    if patient {
        return Ok(false);
    }
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace = api
        .get_metadata_opt(&resource.namespace().unwrap_or_default())
        .await;
    let namespace = namespace.map_err(|source| Error::FetchFailed {
        what: "the namespace",
        source,
    })?;
    Ok(namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()))
}

/// What is in this state, and why, in one text.
fn list(progress: &[DeletionStatus], state: DeletionState) -> String {
    let told: Vec<_> = Store::ALL
        .into_iter()
        .zip(progress)
        .filter(|(_, progress)| progress.state == state)
        .map(|(store, progress)| format!("{}: {}", store.what(), progress.message))
        .collect();
    told.join("; ")
}

async fn tell(
    resource: &CommercePipeline,
    context: &Context,
    progress: &[DeletionStatus],
    stop: &Stop,
) -> Result<(), Error> {
    let mut findings = Findings {
        deletion: progress.to_vec(),
        ..Findings::default()
    };
    findings.stop(None, stop);
    let next = status::next(resource, &findings, &super::now());
    if status::write(&context.client, resource, &next).await? {
        events::publish(
            &context.recorder,
            resource,
            events::changes(resource.status.as_ref(), &next),
        )
        .await;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Store {
    Kafka,
    Elasticsearch,
    Postgres,
}

impl Store {
    const ALL: [Self; 3] = [Self::Kafka, Self::Elasticsearch, Self::Postgres];

    fn name(self) -> &'static str {
        match self {
            Self::Kafka => "Kafka",
            Self::Elasticsearch => "Elasticsearch",
            Self::Postgres => "PostgreSQL",
        }
    }

    /// The condition that is about it.
    fn step(self) -> &'static str {
        match self {
            Self::Kafka => status::TOPICS,
            Self::Elasticsearch => status::INDEX,
            Self::Postgres => status::SCHEMA,
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Kafka => "the topics in Kafka",
            Self::Elasticsearch => "the index in Elasticsearch",
            Self::Postgres => "the tables in PostgreSQL",
        }
    }

    /// What becomes of it, as far as is known before it is asked.
    fn begin(self, resource: &CommercePipeline) -> DeletionStatus {
        let spec = &resource.spec;
        let own = match self {
            Self::Kafka => spec.kafka.deletion_policy,
            Self::Elasticsearch => spec.elasticsearch.deletion_policy,
            Self::Postgres => spec.postgres.deletion_policy,
        };
        let (state, message) = match own.unwrap_or(spec.deletion_policy) {
            DeletionPolicy::Retain => (DeletionState::Retained, "deletionPolicy: Retain"),
            DeletionPolicy::Delete => (DeletionState::Waiting, "the pods have to stop first"),
        };
        let earlier = resource.status.iter().flat_map(|status| &status.deletion);
        let removed = |earlier: &&DeletionStatus| {
            earlier.store == self.name() && earlier.state == DeletionState::Removed
        };
        let begun = || DeletionStatus {
            store: self.name().to_owned(),
            state,
            message: message.to_owned(),
        };
        earlier.into_iter().find(removed).cloned().unwrap_or_else(begun)
    }
}

/// Whose the stores are by their marks, where it is another pipeline.
struct Others {
    index: Result<Option<String>, String>,
    schema: Result<Option<String>, String>,
}

impl Others {
    /// Topics bear no mark: they are taken to be of whom the rest is. Of a store that can't say, its own removal will.
    fn of(&self, store: Store) -> Result<Option<String>, String> {
        match store {
            Store::Elasticsearch => self.index.clone(),
            Store::Postgres => self.schema.clone(),
            Store::Kafka => {
                let mut all = [&self.schema, &self.index].into_iter().flatten().flatten();
                Ok(all
                    .next()
                    .map(|whose| format!("the rest of the pipeline is {whose}")))
            }
        }
    }
}

async fn others(resource: &CommercePipeline, secrets: &Secrets, context: &Context) -> Others {
    let (spec, namespace) = (&resource.spec, resource.namespace().unwrap_or_default());
    let index = async {
        match validate::elasticsearch(&spec.elasticsearch, &namespace, secrets) {
            Ok(elasticsearch) => context.stores.index_mark(&elasticsearch).await,
            Err(_) => Ok(Mark::Unmarkable),
        }
    };
    let schema = async {
        match validate::postgres(&spec.postgres, &namespace, secrets) {
            Ok(postgres) => context.stores.schema_mark(&postgres.connect).await,
            Err(_) => Ok(Mark::Unmarkable),
        }
    };
    let (index, schema) = tokio::join!(index, schema);
    Others {
        index: index.map(|mark| marks::another(mark, resource)),
        schema: schema.map(|mark| marks::another(mark, resource)),
    }
}

/// Takes the pipeline's mark off what is kept. Where that does not work, whoever comes next has to be told to adopt it.
async fn unmark(resource: &CommercePipeline, context: &Context) {
    let kept = |store: Store| store.begin(resource).state == DeletionState::Retained;
    let Ok(secrets) = fetch::secrets(&context.client, resource).await else {
        return;
    };
    let (stores, failed) = (&context.stores, Error::CleanupFailed);
    let (spec, namespace) = (&resource.spec, resource.namespace().unwrap_or_default());
    let uid = resource.uid().unwrap_or_default();
    let index = async {
        let elasticsearch = validate::elasticsearch(&spec.elasticsearch, &namespace, &secrets);
        match elasticsearch {
            Ok(elasticsearch) if kept(Store::Elasticsearch) => {
                let work = stores.unmark_index(&elasticsearch, &uid);
                context.write(work, failed).await
            }
            _ => Ok(()),
        }
    };
    let schema = async {
        match validate::postgres(&spec.postgres, &namespace, &secrets) {
            Ok(postgres) if kept(Store::Postgres) => {
                let work = stores.unmark_schema(&postgres.connect, &uid);
                context.write(work, failed).await
            }
            _ => Ok(()),
        }
    };
    let (index, schema) = tokio::join!(index, schema);
    for error in [index, schema].into_iter().filter_map(Result::err) {
        tracing::warn!(namespace, name = resource.name_any(), %error, "the mark of a pipeline that is gone is left in a store");
    }
}

async fn remove(
    store: Store,
    resource: &CommercePipeline,
    secrets: &Secrets,
    context: &Context,
) -> Result<(DeletionState, String), Error> {
    let namespace = resource.namespace().unwrap_or_default();
    let (stores, failed) = (&context.stores, Error::CleanupFailed);
    let result = match store {
        Store::Kafka => match validate::kafka(&resource.spec.kafka, &namespace, secrets) {
            Ok(kafka) => context.write(stores.remove_topics(&kafka), failed).await,
            Err(problem) => return Ok(without_a_way(&problem)),
        },
        Store::Elasticsearch => {
            match validate::elasticsearch(&resource.spec.elasticsearch, &namespace, secrets) {
                Ok(elasticsearch) => context.write(stores.remove_index(&elasticsearch), failed).await,
                Err(problem) => return Ok(without_a_way(&problem)),
            }
        }
        Store::Postgres => match validate::postgres(&resource.spec.postgres, &namespace, secrets) {
            Ok(postgres) => {
                let work = stores.remove_schema(&postgres.connect);
                context.write(work, failed).await
            }
            Err(problem) => return Ok(without_a_way(&problem)),
        },
    };
    match result {
        Ok(()) => Ok((DeletionState::Removed, "gone".to_owned())),
        Err(Error::CleanupFailed(problem)) => Ok((DeletionState::Waiting, problem)),
        // That this replica must not write says nothing about the store.
        Err(error) => Err(error),
    }
}

/// A store that can't be asked. Where the Secret with the way there is gone, nothing will change that.
fn without_a_way(problem: &Problem) -> (DeletionState, String) {
    let state = match problem {
        Problem::Missing(_) => DeletionState::Left,
        _ => DeletionState::Waiting,
    };
    (state, problem.to_string())
}
