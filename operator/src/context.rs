//! What all passes share: clients, settings, and what was found lately.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kube::{
    Client, ResourceExt as _, core::PartialObjectMeta, runtime::events::Recorder,
    runtime::reflector::ObjectRef,
};
use rand::Rng as _;

use crate::{
    crd::CommercePipeline,
    metrics::Metrics,
    reconcile::{secrets::referenced, stores::Stores},
};

/// Pipelines are watched by their metadata alone; a pass reads the rest.
pub type Watched = PartialObjectMeta<CommercePipeline>;

/// A store that answered is not asked again for so long: a rollout wakes the pipeline many times.
const ANSWERED: Duration = Duration::from_secs(10);

/// What all passes share.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub stores: Arc<dyn Stores>,
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
        self.probe_interval.mul_f64(rand::rng().random_range(0.8..1.2))
    }
}

impl Context {
    /// Notes which Secrets a pipeline refers to, so that a change of one wakes it.
    pub fn remember(&self, resource: &CommercePipeline) {
        let namespace = resource.namespace().unwrap_or_default();
        let pipeline = ObjectRef::new(&resource.name_any()).within(&namespace);
        let keys = referenced(&resource.spec)
            .into_iter()
            .map(|name| (namespace.clone(), name))
            .collect();
        self.memory.lock().refer(&pipeline, &keys);
    }

    /// Forgets a pipeline that is gone.
    pub fn forget(&self, resource: &CommercePipeline) {
        self.forget_name(&resource.namespace().unwrap_or_default(), &resource.name_any());
        self.memory.overlook(&resource.uid().unwrap_or_default());
    }

    /// The same, for one that nothing but the name is left of.
    pub fn forget_name(&self, namespace: &str, name: &str) {
        let pipeline = ObjectRef::new(name).within(namespace);
        let mut state = self.memory.lock();
        state.refer(&pipeline, &BTreeSet::new());
        state.attempts.remove(&pipeline);
    }
}

/// What was found lately. Nothing in it is needed to be right: after a restart it is found again.
#[derive(Debug, Default)]
pub struct Memory(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Pipelines by the namespace and name of each Secret that they refer to.
    referrers: HashMap<(String, String), BTreeSet<(String, String)>>,
    /// Passes that failed since the last one that did not.
    attempts: HashMap<ObjectRef<Watched>, u32>,
    /// By the pipeline's uid.
    lately: HashMap<String, Lately>,
}

#[derive(Debug, Default)]
struct Lately {
    answered: Option<(String, Instant)>,
    prepared: Option<(String, Instant)>,
}

impl State {
    fn refer(&mut self, pipeline: &ObjectRef<Watched>, keys: &BTreeSet<(String, String)>) {
        let pipeline = (
            pipeline.namespace.clone().unwrap_or_default(),
            pipeline.name.clone(),
        );
        self.referrers.retain(|key, referrers| {
            if !keys.contains(key) {
                referrers.remove(&pipeline);
            }
            !referrers.is_empty()
        });
        for key in keys {
            self.referrers
                .entry(key.clone())
                .or_default()
                .insert(pipeline.clone());
        }
    }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pipelines that refer to a Secret.
    #[must_use]
    pub fn referrers(&self, namespace: &str, secret: &str) -> Vec<ObjectRef<Watched>> {
        let state = self.lock();
        let found = state.referrers.get(&(namespace.to_owned(), secret.to_owned()));
        found
            .into_iter()
            .flatten()
            .map(|(namespace, name)| ObjectRef::new(name).within(namespace))
            .collect()
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

    /// Takes nothing of what was found lately for granted.
    pub fn overlook(&self, uid: &str) {
        self.lock().lately.remove(uid);
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
