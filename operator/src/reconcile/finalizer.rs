//! The end of a pipeline: what its `deletionPolicy` asks for, then the release of the resource.
//!
//! It never hangs for good. A store that is away is tried again and told in the status; the annotation
//! `commerce.lab/abandon-external: "true"` gives up on it. A store whose Secret is gone can't be reached ever again, and its
//! data is left: that is how deleting a whole namespace comes to an end, whatever is deleted first.

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
    fetch,
    names::{ABANDON, FINALIZER},
    secrets::Secrets,
    status::{self, Findings},
    validate::{self, Problem},
};
use crate::{
    context::Context,
    crd::{CommercePipeline, DeletionPolicy},
};

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
        if resource.spec.deletion_policy == DeletionPolicy::Delete
            && let Some(waiting) = Box::pin(clean_up(resource, context)).await?
        {
            return Ok(waiting);
        }
        release(&context.client, resource).await?;
    }
    context.forget(resource);
    Ok(Action::await_change())
}

/// Removes what the pipeline has in the stores; `Some` while something is to be waited for.
async fn clean_up(resource: &CommercePipeline, context: &Context) -> Result<Option<Action>, Error> {
    // Running services would make the topics anew, and write into what is being removed.
    let observed = fetch::observe(&context.client, resource).await?;
    let live = &observed.live;
    apply::prune(&context.client, &live.deployments, |_| false).await?;
    apply::prune(&context.client, &live.jobs, |_| false).await?;
    if !live.pods.is_empty() {
        let message = format!(
            "waits for {} pods to stop, then removes topics, index and tables",
            live.pods.len()
        );
        tell(
            resource,
            context,
            &Stop::Waiting {
                reason: "Deleting",
                message,
            },
        )
        .await?;
        return Ok(Some(Action::requeue(RETRY_CLEANUP)));
    }

    let mut failed = Vec::new();
    let mut left = Vec::new();
    let secrets = &observed.secrets;
    let conflicts = &claims::conflicts(resource, context).await?;
    let remove = |store: Store| async move {
        match conflicts.iter().find(|conflict| conflict.step == store.step()) {
            Some(conflict) => {
                let whose = format!("it is what the older pipeline {} uses", conflict.holder);
                (store, Outcome::Left(whose))
            }
            None => (store, remove(store, resource, secrets, context).await),
        }
    };
    let all = [Store::Kafka, Store::Elasticsearch, Store::Postgres].map(remove);
    for (store, outcome) in futures::future::join_all(all).await {
        match outcome {
            Outcome::Removed => {}
            Outcome::Left(problem) => left.push(format!("{}: {problem}", store.what())),
            Outcome::Failed(problem) => failed.push(format!("{}: {problem}", store.what())),
        }
    }
    if !failed.is_empty() {
        if resource
            .annotations()
            .get(ABANDON)
            .is_some_and(|value| value == "true")
        {
            left.append(&mut failed);
        } else {
            let message = format!(
                "removing {}. It is tried again; the annotation {ABANDON}=true on the pipeline leaves it where it is",
                failed.join("; ")
            );
            let error = Error::CleanupFailed(message);
            tell(
                resource,
                context,
                &Stop::Failed(Error::CleanupFailed(error.to_string())),
            )
            .await?;
            return Err(error);
        }
    }
    if !left.is_empty() {
        let note = format!("left behind: {}", left.join("; "));
        events::publish(
            &context.recorder,
            resource,
            vec![event(false, "Abandoned", "Delete", &note)],
        )
        .await;
    }
    Ok(None)
}

async fn tell(resource: &CommercePipeline, context: &Context, stop: &Stop) -> Result<(), Error> {
    let mut findings = Findings::default();
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
}

enum Outcome {
    Removed,
    /// The Secret with the way there is gone, or it is another pipeline's.
    Left(String),
    Failed(String),
}

async fn remove(store: Store, resource: &CommercePipeline, secrets: &Secrets, context: &Context) -> Outcome {
    let namespace = resource.namespace().unwrap_or_default();
    let (stores, failed) = (&context.stores, Error::CleanupFailed);
    let result = match store {
        Store::Kafka => match validate::kafka(&resource.spec.kafka, &namespace, secrets) {
            Ok(kafka) => Ok(context.write(stores.remove_topics(&kafka), failed).await),
            Err(problem) => Err(problem),
        },
        Store::Elasticsearch => {
            match validate::elasticsearch(&resource.spec.elasticsearch, &namespace, secrets) {
                Ok(elasticsearch) => Ok(context.write(stores.remove_index(&elasticsearch), failed).await),
                Err(problem) => Err(problem),
            }
        }
        Store::Postgres => match validate::postgres(&resource.spec.postgres, &namespace, secrets) {
            Ok(postgres) => Ok(context
                .write(stores.remove_schema(&postgres.connect), failed)
                .await),
            Err(problem) => Err(problem),
        },
    };
    match result {
        Ok(Ok(())) => Outcome::Removed,
        Ok(Err(problem)) => Outcome::Failed(problem.to_string()),
        Err(problem @ Problem::Missing(_)) => Outcome::Left(problem.to_string()),
        Err(problem) => Outcome::Failed(problem.to_string()),
    }
}
