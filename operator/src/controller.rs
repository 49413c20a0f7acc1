//! When a pipeline is looked at: on its own changes, on changes of its children (deletions included) and of the Secrets that
//! it refers to, and on a timer for what sends no events.
//!
//! What is of a kind that the cluster may not have is watched while it has it.
//!
//! All watches are of metadata only, which is small and always readable; a pass reads what it needs.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, future::ready, stream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{ControllerRevision, Deployment},
        autoscaling::v2::HorizontalPodAutoscaler,
        batch::v1::Job,
        core::v1::{ConfigMap, Secret, Service, ServiceAccount},
        networking::v1::{Ingress, NetworkPolicy},
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::DynamicObject,
    core::PartialObjectMeta,
    runtime::{
        Config, Controller, Predicate as _, WatchStreamExt as _,
        controller::{self, Action},
        predicates,
        reflector::{self, ObjectRef},
        watcher,
    },
};
use rand::Rng as _;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    context::{Context, Watched, spread},
    metrics::Reason,
    reconcile::{
        error::Error,
        kinds::{self, KNOWN_FOR, Kind, Served},
        names::MANAGER,
        reconcile,
    },
};

/// Events that come within this time lead to one pass.
const DEBOUNCE: Duration = Duration::from_millis(250);
/// Pause after the first failure; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Objects that a watch lists at a time when it begins: all watches begin together, and hold a page each.
const PAGE: u32 = 50;

/// Watches the namespaces that are served and reconciles until `stop`; then finishes the passes under way.
///
/// Where namespaces are named each has watches of its own, since the operator may have rights in these and in no others.
pub async fn run(context: Arc<Context>, concurrency: u16, stop: CancellationToken) {
    if context.namespaces.is_empty() {
        return watch(context, None, concurrency, stop).await;
    }
    let watches = context
        .namespaces
        .iter()
        .map(|namespace| watch(context.clone(), Some(namespace), concurrency, stop.clone()));
    futures::future::join_all(watches).await;
}

async fn watch(context: Arc<Context>, namespace: Option<&str>, concurrency: u16, stop: CancellationToken) {
    let client = &context.client;
    let (reader, writer) = reflector::store();
    let pipelines = watcher(scoped::<Watched>(client, namespace), pages())
        .modify(|pipeline| pipeline.managed_fields_mut().clear())
        .reflect(writer)
        .applied_objects()
        // Its own status is no news to the operator.
        .predicate_filter(
            predicates::generation
                .combine(predicates::annotations)
                .combine(predicates::finalizers),
            kube::runtime::PredicateConfig::default(),
        );
    let memory = Arc::clone(&context.memory);
    let secrets = watcher(scoped::<PartialObjectMeta<Secret>>(client, namespace), pages()).touched_objects();
    let controller = Controller::for_stream(pipelines, reader)
        .with_config(Config::default().concurrency(concurrency).debounce(DEBOUNCE))
        .owns(scoped::<Deployment>(client, namespace), ours())
        .owns(scoped::<ControllerRevision>(client, namespace), ours())
        .owns(scoped::<Job>(client, namespace), ours())
        .owns(scoped::<Service>(client, namespace), ours())
        .owns(scoped::<ServiceAccount>(client, namespace), ours())
        .owns(scoped::<PodDisruptionBudget>(client, namespace), ours())
        .owns(scoped::<Ingress>(client, namespace), ours())
        .owns(scoped::<HorizontalPodAutoscaler>(client, namespace), ours())
        .owns(scoped::<NetworkPolicy>(client, namespace), ours())
        .owns(scoped::<ConfigMap>(client, namespace), ours())
        .watches_stream(secrets, move |secret| {
            memory.referrers(&secret.namespace().unwrap_or_default(), &secret.name_any())
        });
    Kind::ALL
        .into_iter()
        .fold(controller, |controller, kind| {
            controller.owns_stream_with(optional(Arc::clone(&context), namespace, kind), kind.resource())
        })
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(pass, pause, context)
        .for_each(|result| async {
            match result {
                Ok(_)
                | Err(controller::Error::ReconcilerFailed(..) | controller::Error::ObjectNotFound(_)) => {}
                Err(error) => tracing::warn!(%error, "watching the cluster; trying again"),
            }
        })
        .await;
}

async fn pass(watched: Arc<Watched>, context: Arc<Context>) -> Result<Action, Error> {
    let (namespace, name) = (watched.namespace().unwrap_or_default(), watched.name_any());
    let started = Instant::now();
    context.metrics.in_flight.inc();
    let result = Box::pin(reconcile(&namespace, &name, &context)).await;
    context.metrics.in_flight.dec();
    context.metrics.reconciles.inc();
    context.metrics.seconds.observe(started.elapsed().as_secs_f64());
    match &result {
        Ok(_) => {
            context.memory.succeeded(&ObjectRef::from_obj(&*watched));
            context.tell();
        }
        Err(error) => {
            context
                .metrics
                .errors
                .get_or_create(&Reason {
                    reason: error.reason(),
                })
                .inc();
            tracing::warn!(namespace, name, reason = error.reason(), %error, "a pass ended early");
        }
    }
    result
}

/// How long to wait after a failed pass: longer each time, and not the same for all.
#[allow(clippy::needless_pass_by_value)]
fn pause(watched: Arc<Watched>, _: &Error, context: Arc<Context>) -> Action {
    let attempts = context.memory.failed(&ObjectRef::from_obj(&*watched));
    context.tell();
    let pause = FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(attempts.saturating_sub(1)))
        .min(LONGEST_PAUSE);
    Action::requeue(pause.mul_f64(rand::rng().random_range(0.5..1.0)))
}

/// The pipelines' objects of a kind that the cluster may not have, as they change while it has it.
fn optional(
    context: Arc<Context>,
    namespace: Option<&str>,
    kind: Kind,
) -> impl Stream<Item = watcher::Result<PartialObjectMeta<DynamicObject>>> + use<> {
    let client = context.client.clone();
    let api: Api<PartialObjectMeta<DynamicObject>> = match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &kind.resource()),
        None => Api::all_with(client, &kind.resource()),
    };
    let mut pause = Duration::ZERO;
    let while_served = move || {
        let (context, pause) = (
            Arc::clone(&context),
            std::mem::replace(&mut pause, spread(KNOWN_FOR)),
        );
        let served = async move {
            sleep(pause).await;
            while kinds::known(&context).await.served(kind) != Served::Yes {
                sleep(spread(KNOWN_FOR)).await;
            }
        };
        let changes = watcher(api.clone(), ours()).touched_objects();
        let known = changes.take_while(|change| ready(!change.as_ref().is_err_and(is_gone)));
        stream::once(served).filter_map(|()| ready(None)).chain(known)
    };
    stream::repeat_with(while_served).flatten()
}

/// Whether a watch has ended because there is no such kind any more.
fn is_gone(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => status.code == 404,
        _ => false,
    }
}

fn ours() -> watcher::Config {
    pages().labels(&format!("app.kubernetes.io/managed-by={MANAGER}"))
}

fn pages() -> watcher::Config {
    watcher::Config::default().page_size(PAGE)
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
