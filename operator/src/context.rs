//! What all passes share: clients, settings, and what was found lately.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kube::{
    Client, ResourceExt as _, core::PartialObjectMeta, runtime::events::Recorder,
    runtime::reflector::ObjectRef,
};
use rand::Rng as _;
use tokio::time::Instant;

use crate::{
    crd::CommercePipeline,
    leader::Tenure,
    metrics::Metrics,
    reconcile::{
        claims::Claimant,
        error::Error,
        flow,
        kinds::{KNOWN_FOR, Kinds},
        secrets::referenced,
        services::Services,
        stores::Stores,
    },
};

/// Pipelines are watched by their metadata alone; a pass reads the rest.
pub type Watched = PartialObjectMeta<CommercePipeline>;

/// A store that answered is not asked again for so long: a rollout wakes the pipeline many times.
const ANSWERED: Duration = Duration::from_secs(10);

/// Other pipelines are not listed again for so long.
const CLAIMED: Duration = Duration::from_secs(10);
/// No write into a store takes longer.
const LONGEST_WRITE: Duration = Duration::from_secs(10);

/// What all passes share.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    /// The namespaces that are served; all if there are none.
    pub namespaces: Vec<String>,
    /// What allows this replica to write.
    pub tenure: Tenure,
    pub stores: Arc<dyn Stores>,
    pub services: Arc<dyn Services>,
    pub recorder: Recorder,
    pub settings: Settings,
    pub memory: Arc<Memory>,
    pub metrics: Metrics,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// How often to look at what sends no events.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether the stores answer.
    pub probe_interval: Duration,
    /// Whether topics and index are still as they should be.
    pub drift_interval: Duration,
}

impl Settings {
    /// When to look again at a pipeline, spread out so that not all are looked at together.
    #[must_use]
    pub fn look_again(&self) -> Duration {
        spread(self.probe_interval)
    }
}

/// About so long, so that what came together does not come together again.
#[must_use]
pub fn spread(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.8..1.2))
}

impl Context {
    /// Writes into a store, if no other replica can have begun to work before it is done. What takes too long is broken off,
    /// and goes on in a later pass.
    pub async fn write<T>(
        &self,
        work: impl Future<Output = Result<T, String>>,
        failed: impl FnOnce(String) -> Error,
    ) -> Result<T, Error> {
        if !self.tenure.lasts(LONGEST_WRITE) {
            return Err(Error::LeaseUncertain);
        }
        let late = |_| Err(format!("not done within {} s", LONGEST_WRITE.as_secs()));
        let done = tokio::time::timeout(LONGEST_WRITE, work)
            .await
            .unwrap_or_else(late);
        done.map_err(failed)
    }

    /// Notes which Secrets a pipeline refers to, so that a change of one wakes it.
    pub fn remember(&self, resource: &CommercePipeline) {
        let namespace = resource.namespace().unwrap_or_default();
        let pipeline = ObjectRef::new(&resource.name_any()).within(&namespace);
        let secrets = referenced(&resource.spec);
        self.memory.lock().references.insert(pipeline, secrets);
    }

    /// Brings the metrics of all pipelines up to date.
    pub fn tell(&self) {
        let state = self.memory.lock();
        let backoff = i64::try_from(state.attempts.len()).unwrap_or(i64::MAX);
        let count = |wanted| {
            (
                wanted,
                state.ready.values().filter(|ready| **ready == wanted).count(),
            )
        };
        self.metrics.in_backoff.set(backoff);
        self.metrics
            .pipelines_are(["true", "false", "unknown"].map(count));
    }

    /// Forgets a pipeline that is gone.
    pub fn forget(&self, resource: &CommercePipeline) {
        self.forget_name(&resource.namespace().unwrap_or_default(), &resource.name_any());
        let uid = resource.uid().unwrap_or_default();
        let mut state = self.memory.lock();
        state.lately.remove(&uid);
        state.databases.remove(&uid);
    }

    /// The same, for one that nothing but the name is left of.
    pub fn forget_name(&self, namespace: &str, name: &str) {
        let pipeline = ObjectRef::new(name).within(namespace);
        let mut state = self.memory.lock();
        state.references.remove(&pipeline);
        state.attempts.remove(&pipeline);
        state.ready.remove(&pipeline);
        state.claimants = None;
    }
}

/// What was found lately. Nothing in it is needed to be right: after a restart it is found again.
#[derive(Debug, Default)]
pub struct Memory {
    state: Mutex<State>,
    /// Whoever lists the pipelines.
    lists: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The Secrets that a pipeline refers to.
    references: HashMap<ObjectRef<Watched>, Vec<String>>,
    /// Passes that failed since the last one that did not.
    attempts: HashMap<ObjectRef<Watched>, u32>,
    /// The condition `Ready` as the last pass left it: `true`, `false` or `unknown`.
    ready: HashMap<ObjectRef<Watched>, &'static str>,
    /// By the pipeline's uid.
    lately: HashMap<String, Lately>,
    /// All pipelines, and when they were listed.
    claimants: Option<(Arc<Vec<Claimant>>, Instant)>,
    /// Kinds that the cluster has and might not have, and when that was asked.
    kinds: Option<(Kinds, Instant)>,
    /// Where the tables of a generation of a pipeline are, by its uid.
    databases: HashMap<String, (i64, Option<String>)>,
    /// What tells this cluster from others, by the namespace that it was found for.
    clusters: HashMap<String, String>,
}

#[derive(Debug, Default)]
struct Lately {
    answered: Option<(String, Instant)>,
    prepared: Option<(String, Instant)>,
    flow: flow::Memory,
    /// Indices that are not used any more, and when that was first seen.
    unused: HashMap<String, Instant>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pipelines that refer to a Secret.
    #[must_use]
    pub fn referrers(&self, namespace: &str, secret: &str) -> Vec<ObjectRef<Watched>> {
        let state = self.lock();
        let refers = |(pipeline, secrets): &(&ObjectRef<Watched>, &Vec<String>)| {
            pipeline.namespace.as_deref() == Some(namespace) && secrets.iter().any(|name| name == secret)
        };
        let referrers = state.references.iter().filter(refers);
        referrers.map(|(pipeline, _)| pipeline.clone()).collect()
    }

    /// Waits until no other pass lists the pipelines: after a restart each would, and one list serves them all.
    pub async fn turn_to_list(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.lists.lock().await
    }

    /// All pipelines, as they were a moment ago.
    #[must_use]
    pub fn claimants(&self) -> Option<Arc<Vec<Claimant>>> {
        let state = self.lock();
        let (all, at) = state.claimants.as_ref()?;
        (at.elapsed() < CLAIMED).then(|| Arc::clone(all))
    }

    /// All pipelines as they are now.
    pub fn claimed(&self, all: Arc<Vec<Claimant>>) {
        self.lock().claimants = Some((all, Instant::now()));
    }

    /// The kinds that the cluster has and might not have, as it was a moment ago.
    #[must_use]
    pub fn kinds(&self) -> Option<Kinds> {
        let state = self.lock();
        let (kinds, at) = state.kinds.as_ref()?;
        (at.elapsed() < KNOWN_FOR).then(|| kinds.clone())
    }

    /// The kinds that the cluster has and might not have.
    pub fn has_kinds(&self, kinds: Kinds) {
        self.lock().kinds = Some((kinds, Instant::now()));
    }

    /// What tells the cluster of a namespace from others.
    #[must_use]
    pub fn cluster(&self, namespace: &str) -> Option<String> {
        self.lock().clusters.get(namespace).cloned()
    }

    /// What tells the cluster of a namespace from others.
    pub fn is_of_cluster(&self, namespace: &str, cluster: &str) {
        self.lock()
            .clusters
            .insert(namespace.to_owned(), cluster.to_owned());
    }

    /// Where the tables of this generation of a pipeline, or of a later one, are, if that was found out.
    #[must_use]
    pub fn database(&self, uid: &str, generation: i64) -> Option<Option<String>> {
        let state = self.lock();
        let (known, database) = state.databases.get(uid)?;
        (*known >= generation).then(|| database.clone())
    }

    /// Where the tables of a generation of a pipeline are.
    pub fn has_database(&self, uid: &str, generation: i64, database: Option<String>) {
        self.lock()
            .databases
            .insert(uid.to_owned(), (generation, database));
    }

    /// All stores that these inputs name answered a moment ago.
    #[must_use]
    pub fn answered_lately(&self, uid: &str, inputs: &str) -> bool {
        let state = self.lock();
        let answered = state.lately.get(uid).and_then(|lately| lately.answered.as_ref());
        answered.is_some_and(|(known, at)| known == inputs && at.elapsed() < ANSWERED)
    }

    /// All stores that these inputs name answered.
    pub fn answered(&self, uid: &str, inputs: &str) {
        self.lock().lately.entry(uid.to_owned()).or_default().answered =
            Some((inputs.to_owned(), Instant::now()));
    }

    /// Topics and index were as these inputs ask for, not longer ago than `within`.
    #[must_use]
    pub fn prepared_lately(&self, uid: &str, inputs: &str, within: Duration) -> bool {
        let state = self.lock();
        let prepared = state.lately.get(uid).and_then(|lately| lately.prepared.as_ref());
        prepared.is_some_and(|(known, at)| known == inputs && at.elapsed() < within)
    }

    /// Topics and index are as these inputs ask for.
    pub fn prepared(&self, uid: &str, inputs: &str) {
        self.lock().lately.entry(uid.to_owned()).or_default().prepared =
            Some((inputs.to_owned(), Instant::now()));
    }

    /// Topics and index are to be looked at again.
    pub fn unprepared(&self, uid: &str) {
        if let Some(lately) = self.lock().lately.get_mut(uid) {
            lately.prepared = None;
        }
    }

    /// What was found in the stores lately is to be looked at again.
    pub fn overlook(&self, uid: &str) {
        if let Some(lately) = self.lock().lately.get_mut(uid) {
            lately.answered = None;
            lately.prepared = None;
        }
    }

    /// Judges what the services say by what they said before.
    pub fn flow<T>(&self, uid: &str, judge: impl FnOnce(&mut flow::Memory) -> T) -> T {
        judge(&mut self.lock().lately.entry(uid.to_owned()).or_default().flow)
    }

    /// Whether an index has not been used for so long, as far as this operator has seen.
    #[must_use]
    pub fn unused_for(&self, uid: &str, index: &str, within: Duration) -> bool {
        let mut state = self.lock();
        let unused = &mut state.lately.entry(uid.to_owned()).or_default().unused;
        let since = unused.entry(index.to_owned()).or_insert_with(Instant::now);
        since.elapsed() >= within
    }

    /// An index is gone or used again.
    pub fn forget_index(&self, uid: &str, index: &str) {
        if let Some(lately) = self.lock().lately.get_mut(uid) {
            lately.unused.remove(index);
        }
    }

    /// The condition `Ready` of a pipeline is this now.
    pub fn is_ready(&self, namespace: &str, name: &str, status: &str) {
        let ready = match status {
            "True" => "true",
            "False" => "false",
            _ => "unknown",
        };
        let pipeline = ObjectRef::new(name).within(namespace);
        self.lock().ready.insert(pipeline, ready);
    }

    /// How many passes over a pipeline failed in a row, this one included.
    pub fn failed(&self, pipeline: &ObjectRef<Watched>) -> u32 {
        let mut state = self.lock();
        let attempts = state.attempts.entry(pipeline.clone()).or_default();
        *attempts = attempts.saturating_add(1);
        *attempts
    }

    /// A pass did not fail.
    pub fn succeeded(&self, pipeline: &ObjectRef<Watched>) {
        self.lock().attempts.remove(pipeline);
    }
}
