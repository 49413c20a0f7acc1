//! The operator dies, or a call fails, at any call and in any order: it always comes to the same objects, status and stores
//! as a run that nothing disturbed.
//!
//! One fault is tried at every call of every step; several, at random. A failure prints what led to it, made as small as it
//! can be; `PROPTEST_RNG_SEED=1` (or any other number) makes the random runs the same each time, and `PROPTEST_CASES=1000`
//! looks for longer. Of the calls that only ask, one in some is refused; `CRASH_ALL=1` refuses each, in all scenarios.

mod scenarios;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use commerce_operator::reconcile::names;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::advance;

use crate::{
    cluster::{Cluster, PIPELINE},
    faults::Fault,
    services::FakeServices,
    stores::{FakeStores, Held, Marks},
    world::World,
};

/// More passes than any scenario needs to come to rest.
const PASSES: usize = 100;
/// The longest that a mistake of the operator may last: longer than it takes a store or another pipeline to be as it was found
/// a moment ago, and shorter than it is until the next look at topics and index.
const A_MOMENT: Duration = Duration::from_secs(15);
/// Until the next look at topics and index.
const A_WHILE: Duration = Duration::from_mins(6);
/// Of so many calls that only ask, one is refused: most are the same lists, pass after pass.
const QUESTIONS: usize = 16;
/// Image of a version that never becomes ready.
const BROKEN: &str = "broken";

/// What is outside the operator.
#[derive(Clone)]
struct Outside {
    cluster: Cluster,
    stores: Arc<FakeStores>,
    services: Arc<FakeServices>,
}

type Step = fn(&Outside);

/// What people do to a pipeline, one step after the other.
struct Scenario {
    spec: fn() -> Vec<(&'static str, Value)>,
    steps: &'static [Step],
    /// It ends the same even where a step does not wait for the one before it.
    overlaps: bool,
    /// How long after the last change all is as it stays.
    within: Duration,
    /// Numbers of steps that another scenario tries call by call.
    known: &'static [usize],
}

/// What a run ends with.
#[derive(Debug, PartialEq)]
struct Outcome {
    objects: BTreeMap<String, Value>,
    stores: Held,
}

impl Outside {
    fn of(world: &World) -> Self {
        Self {
            cluster: world.cluster.clone(),
            stores: world.stores.clone(),
            services: world.services.clone(),
        }
    }

    /// Before anything was done.
    fn begin(scenario: &Scenario) -> Self {
        let outside = Self::of(&World::with(&(scenario.spec)()));
        outside.stores.schema.lock().unwrap().0 = 0;
        outside
    }

    fn operator(&self) -> World {
        World::of(self.cluster.clone(), self.stores.clone(), self.services.clone())
    }

    /// The same once more, to go another way from here.
    fn copy(&self) -> Self {
        let cluster = self.cluster.copy();
        let stores = Arc::new(self.stores.copy(cluster.faults.clone()));
        let services = Arc::new(self.services.copy(cluster.faults.clone()));
        Self {
            cluster,
            stores,
            services,
        }
    }

    /// One step, and what an operator makes of it while `plan` happens.
    async fn take(&self, step: Step, within: Duration, plan: &[(usize, Fault)]) -> Outcome {
        let mut world = self.operator();
        self.cluster.faults.plan(plan.iter().copied());
        step(self);
        settle(&mut world, within).await;
        rests(&mut world).await;
        self.outcome()
    }

    /// Changes the pipeline's spec, as a person does.
    fn change(&self, change: impl FnOnce(&mut Value)) {
        self.change_spec(PIPELINE, change);
    }

    /// Changes the spec of an object, if there is one.
    fn change_spec(&self, path: &str, change: impl FnOnce(&mut Value)) {
        if self.cluster.get(path).is_some() {
            self.cluster.edit(path, |object| {
                change(&mut object["spec"]);
                let generation = object["metadata"]["generation"].as_i64().unwrap();
                object["metadata"]["generation"] = json!(generation + 1);
            });
        }
    }

    fn delete(&self) {
        let Some(pipeline) = self.cluster.get(PIPELINE) else {
            return;
        };
        if pipeline["metadata"]["finalizers"]
            .as_array()
            .is_none_or(Vec::is_empty)
        {
            self.cluster.remove(PIPELINE);
        } else {
            self.cluster.edit(PIPELINE, |pipeline| {
                pipeline["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            });
        }
    }

    /// Plays garbage collector, controllers and kubelets: each moves what it is about by one step.
    fn play(&self) {
        let (orphans, moving) = self.cluster.look(|objects| {
            let uids: BTreeSet<_> = objects
                .values()
                .filter_map(|object| object["metadata"]["uid"].as_str())
                .collect();
            let is_orphan = |object: &Value| {
                let owners = object["metadata"]["ownerReferences"].as_array();
                owners.is_some_and(|owners| {
                    !owners
                        .iter()
                        .any(|owner| uids.contains(owner["uid"].as_str().unwrap()))
                })
            };
            let (orphans, others): (Vec<_>, Vec<_>) =
                objects.iter().partition(|(_, object)| is_orphan(object));
            let orphans: Vec<String> = orphans.into_iter().map(|(path, _)| path.clone()).collect();
            let moves = |path: &str| path.contains("/deployments/") || path.contains("/jobs/");
            let moving: Vec<(String, Value)> = others
                .into_iter()
                .filter(|(path, _)| moves(path))
                .map(|(path, object)| (path.clone(), object.clone()))
                .collect();
            (orphans, moving)
        });
        for path in &orphans {
            self.cluster.remove(path);
        }
        for (path, object) in &moving {
            if object["spec"]["suspend"] == true {
                self.cluster.remove(&pod_of(object));
                continue;
            }
            let starts = self.start(path, object);
            if starts && let Some(index) = object["metadata"]["annotations"][names::REINDEX_INTO].as_str() {
                self.stores.fill(index);
            }
            if path.contains("/deployments/") {
                self.roll_out(path, object);
            } else if !starts && object["status"].is_null() {
                let mut schema = self.stores.schema.lock().unwrap();
                schema.0 = schema.1;
                self.cluster.edit(path, |job| {
                    job["status"] = json!({ "conditions": [{ "type": "Complete", "status": "True" }] });
                });
            }
        }
    }

    /// A change of a Deployment is seen first, and carried out next.
    fn roll_out(&self, path: &str, object: &Value) {
        let (generation, replicas) = (&object["metadata"]["generation"], &object["spec"]["replicas"]);
        let status = if object["status"]["observedGeneration"] != *generation {
            let ready = object["status"]["readyReplicas"].as_i64().unwrap_or(0);
            json!({
                "observedGeneration": generation,
                "replicas": replicas, "updatedReplicas": 0, "readyReplicas": ready, "availableReplicas": ready,
            })
        } else if object["spec"]["template"].to_string().contains(BROKEN) {
            return;
        } else {
            json!({
                "observedGeneration": generation,
                "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas,
            })
        };
        self.cluster
            .edit(path, |deployment| deployment["status"] = status);
    }

    /// A pod of a Deployment or Job; false where it is there already.
    fn start(&self, owner: &str, object: &Value) -> bool {
        let path = pod_of(object);
        let name = path.rsplit('/').next();
        let new = self.cluster.get(&path).is_none();
        if new {
            let labels = &object["spec"]["template"]["metadata"]["labels"];
            let metadata =
                json!({ "name": name, "uid": path, "labels": labels, "ownerReferences": [{ "uid": owner }] });
            let status = json!({ "phase": "Running", "podIP": "10.0.0.7" });
            self.cluster.put(
                &path,
                json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status }),
            );
        }
        new
    }

    fn outcome(&self) -> Outcome {
        let mut objects = self.cluster.objects();
        for (path, object) in &mut objects {
            if path.contains("/controllerrevisions/") {
                // Its number counts how often the version has changed.
                object.as_object_mut().unwrap().shift_remove("revision");
                let annotations = object["metadata"]["annotations"].as_object_mut().unwrap();
                annotations.shift_remove(names::APPLIED);
            }
            forget_how(object);
        }
        let mut stores = self.stores.held();
        if !objects.contains_key(PIPELINE) {
            // A mark that could not be taken off at the end hinders nobody in this cluster.
            stores.marks = Marks::default();
        }
        if let Some(owner) = &mut stores.marks.index {
            // Of the spec by which it was first marked; nobody reads it.
            owner.generation = 0;
        }
        Outcome { objects, stores }
    }
}

/// Path of the pod of a Deployment or Job.
fn pod_of(owner: &Value) -> String {
    let name = owner["metadata"]["name"].as_str().unwrap();
    format!("/api/v1/namespaces/store/pods/{name}-x")
}

/// Takes out of an object how often and when it was changed.
fn forget_how(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            // Generations of what the operator makes; that of the pipeline is in its conditions, where it is compared.
            if fields.contains_key("resourceVersion") || fields.contains_key("availableReplicas") {
                fields.shift_remove("generation");
                fields.shift_remove("observedGeneration");
            }
            fields.shift_remove("resourceVersion");
            fields.shift_remove("lastTransitionTime");
            fields.values_mut().for_each(forget_how);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_how),
        _ => {}
    }
}

/// Passes, and moves of what is outside, until nothing moves any more, and neither does it after `within`.
async fn settle(world: &mut World, within: Duration) {
    let outside = Outside::of(world);
    let faults = &outside.cluster.faults;
    let state = || {
        (
            outside.cluster.version(),
            outside.stores.held(),
            faults.happened(),
        )
    };
    let mut waited = false;
    let mut before = state();
    for _ in 0..PASSES {
        tokio::select! {
            // What fails by itself fails until somebody does something.
            _ = world.pass() => {}
            () = faults.death() => world.restart_operator(),
        }
        outside.play();
        let now = state();
        if now != before {
            waited = false;
        } else if waited {
            return;
        } else {
            waited = true;
            advance(within).await;
        }
        before = now;
    }
    panic!("it does not come to rest");
}

impl Scenario {
    /// The steps; the first is that the pipeline is there.
    fn steps(&self) -> impl Iterator<Item = Step> + Send + use<> {
        let nothing: Step = |_| ();
        std::iter::once(nothing).chain(self.steps.to_vec())
    }

    /// At each call of each step, everything that can happen to it.
    async fn survives_everything_once(&self) {
        let all = std::env::var_os("CRASH_ALL").is_some();
        let mut start = Outside::begin(self);
        for (number, step) in self.steps().enumerate() {
            let undisturbed = start.copy();
            let expected = undisturbed.take(step, self.within, &[]).await;
            let calls = undisturbed.cluster.faults.writes();
            // How a pipeline begins is the scenario `creation`'s to try.
            let begins = number == 0 && !self.steps.is_empty();
            let calls = if begins || self.known.contains(&number) && !all {
                Vec::new()
            } else {
                calls
            };
            for (call, writes) in calls.into_iter().enumerate() {
                // A death leaves what the writes before it have made: one at a question leaves the same as one after the
                // write before it, and so does one before a write.
                let faults: &[Fault] = if writes {
                    &[Fault::Refused, Fault::Lost, Fault::DiesAfter]
                } else if call == 0 {
                    &[Fault::Refused, Fault::DiesBefore]
                } else if all || (call + number) % QUESTIONS == 0 {
                    &[Fault::Refused]
                } else {
                    &[]
                };
                for fault in faults {
                    let _told = ToldOnPanic(format!("step {number}, call {call}: {fault:?}"));
                    let outcome = start.copy().take(step, self.within, &[(call, *fault)]).await;
                    pretty_assertions::assert_eq!(expected, outcome);
                }
            }
            start = undisturbed;
        }
    }

    /// All steps, one after the other.
    async fn undisturbed(&self) -> Outcome {
        let outside = Outside::begin(self);
        for step in self.steps() {
            outside.take(step, self.within, &[]).await;
        }
        outside.outcome()
    }

    /// A run in which steps and moves of what is outside come in the middle of passes, too.
    async fn disturbed(&self, disturbance: &Disturbance) -> Outcome {
        let outside = Outside::begin(self);
        let mut world = outside.operator();
        let faults = &outside.cluster.faults;
        faults.plan(disturbance.faults.iter().copied());
        faults.shuffle(disturbance.order);
        for call in &disturbance.moves {
            let outside = outside.clone();
            faults.meanwhile(*call, Box::new(move || outside.play()));
        }
        let steps = Arc::new(Mutex::new(self.steps()));
        let next = move || steps.lock().unwrap().next();
        if self.overlaps {
            for call in &disturbance.steps {
                let (outside, next) = (outside.clone(), next.clone());
                let step = move || next().into_iter().for_each(|step| step(&outside));
                faults.meanwhile(*call, Box::new(step));
            }
        }
        settle(&mut world, self.within).await;
        while let Some(step) = next() {
            step(&outside);
            settle(&mut world, self.within).await;
        }
        rests(&mut world).await;
        outside.outcome()
    }
}

/// What a run was about that fails, wherever it fails.
struct ToldOnPanic(String);

impl Drop for ToldOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// Another operator finds nothing to do.
async fn rests(world: &mut World) {
    let cluster = world.cluster.clone();
    cluster.faults.end();
    world.restart_operator();
    world.everything();
    let before = cluster.version();
    let _ = world.pass().await;
    let done = world.everything();
    assert_eq!(done, Vec::<String>::new(), "at rest, and yet something was done");
    assert_eq!(
        cluster.version(),
        before,
        "at rest, and yet something was written"
    );
}

/// What happens in a run, and when.
#[derive(Clone, Debug)]
struct Disturbance {
    faults: Vec<(usize, Fault)>,
    moves: Vec<usize>,
    steps: Vec<usize>,
    order: u64,
}

/// As many as `PROPTEST_CASES` says.
fn cases() -> ProptestConfig {
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() {
        ProptestConfig::default().cases
    } else {
        8
    };
    ProptestConfig::with_cases(cases)
}

fn disturbance() -> impl Strategy<Value = Disturbance> {
    let fault = prop_oneof![
        Just(Fault::Refused),
        Just(Fault::Lost),
        Just(Fault::DiesBefore),
        Just(Fault::DiesAfter)
    ];
    let faults = prop::collection::vec((0..150_usize, fault), 0..8);
    let moves = prop::collection::vec(0..150_usize, 0..6);
    let steps = prop::collection::vec(0..80_usize, 0..3);
    (faults, moves, steps, any::<u64>()).prop_map(|(faults, moves, steps, order)| Disturbance {
        faults,
        moves,
        steps,
        order,
    })
}
