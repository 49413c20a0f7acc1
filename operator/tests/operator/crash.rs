//! The operator dies, or a call fails, at any call and in any order: it always comes to the same objects, status and stores
//! as a run that nothing disturbed.
//!
//! One fault is tried at every call of every step; several, at random. A failure prints what led to it, made as small as it
//! can be; `PROPTEST_RNG_SEED=1` (or any other number) makes the random runs the same each time, and `PROPTEST_CASES=1000`
//! looks for longer.

mod scenarios;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, PIPELINE},
    faults::Fault,
    reconcile::World,
    stores::FakeStores,
};

/// More passes than any scenario needs to come to rest.
const PASSES: usize = 60;

/// What is outside the operator.
#[derive(Clone)]
struct Outside {
    cluster: Cluster,
    stores: Arc<FakeStores>,
}

type Step = fn(&Outside);

/// What people do to a pipeline, one step after the other.
struct Scenario {
    spec: fn() -> Vec<(&'static str, Value)>,
    steps: &'static [Step],
    /// It ends the same even where a step does not wait for the one before it.
    overlaps: bool,
}

/// What a run ends with.
#[derive(Debug, PartialEq)]
struct Outcome {
    objects: BTreeMap<String, Value>,
    stores: BTreeSet<&'static str>,
}

impl Outside {
    fn of(world: &World) -> Self {
        Self {
            cluster: world.cluster.clone(),
            stores: world.stores.clone(),
        }
    }

    /// The same once more, to go another way from here.
    fn copy(&self) -> Self {
        let cluster = self.cluster.copy();
        let stores = Arc::new(self.stores.copy(cluster.faults.clone()));
        Self { cluster, stores }
    }

    /// One step, and what an operator makes of it while `plan` happens.
    async fn take(&self, step: Step, plan: &[(usize, Fault)]) -> Outcome {
        let mut world = World::of(self.cluster.clone(), self.stores.clone());
        self.cluster.faults.plan(plan.iter().copied());
        step(self);
        settle(&mut world).await;
        rests(&mut world).await;
        self.outcome()
    }

    /// Changes the spec, as a person does.
    fn change(&self, change: impl FnOnce(&mut Value)) {
        if self.cluster.get(PIPELINE).is_some() {
            self.cluster.edit(PIPELINE, |pipeline| {
                change(&mut pipeline["spec"]);
                let generation = pipeline["metadata"]["generation"].as_i64().unwrap();
                pipeline["metadata"]["generation"] = json!(generation + 1);
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
        let objects = self.cluster.objects();
        let uids: BTreeSet<_> = objects
            .values()
            .filter_map(|object| object["metadata"]["uid"].as_str())
            .collect();
        let owned_by_none = |object: &Value| {
            let owners = object["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|owners| {
                !owners
                    .iter()
                    .any(|owner| uids.contains(owner["uid"].as_str().unwrap()))
            })
        };
        for (path, object) in &objects {
            if owned_by_none(object) {
                self.cluster.remove(path);
            } else if path.contains("/deployments/") {
                self.start(path, object);
                let replicas = &object["spec"]["replicas"];
                let status = json!({
                    "observedGeneration": object["metadata"]["generation"],
                    "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas,
                });
                self.cluster
                    .edit(path, |deployment| deployment["status"] = status);
            } else if path.contains("/jobs/") && !self.start(path, object) && object["status"].is_null() {
                self.stores.holds.lock().unwrap().insert("schema");
                self.cluster.edit(path, |job| {
                    job["status"] = json!({ "conditions": [{ "type": "Complete", "status": "True" }] });
                });
            }
        }
    }

    /// A pod of a Deployment or Job; false where it is there already.
    fn start(&self, owner: &str, object: &Value) -> bool {
        let name = format!("{}-x", object["metadata"]["name"].as_str().unwrap());
        let path = format!("/api/v1/namespaces/store/pods/{name}");
        let new = self.cluster.get(&path).is_none();
        if new {
            let metadata = json!({ "name": name, "uid": path, "ownerReferences": [{ "uid": owner }] });
            self.cluster.put(
                &path,
                json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata }),
            );
        }
        new
    }

    fn outcome(&self) -> Outcome {
        let mut objects = self.cluster.objects();
        objects.values_mut().for_each(forget_how);
        Outcome {
            objects,
            stores: self.stores.holds.lock().unwrap().clone(),
        }
    }
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

/// Passes, and moves of what is outside, until nothing moves any more.
async fn settle(world: &mut World) {
    let outside = Outside::of(world);
    let faults = &outside.cluster.faults;
    let state = || {
        (
            outside.cluster.version(),
            outside.stores.holds.lock().unwrap().clone(),
            faults.happened(),
        )
    };
    for _ in 0..PASSES {
        let before = state();
        tokio::select! {
            // What fails by itself fails until somebody does something.
            _ = world.pass() => {}
            () = faults.death() => world.restart_operator(),
        }
        outside.play();
        if state() == before {
            return;
        }
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
        let mut start = Outside::of(&World::with(&(self.spec)()));
        for (number, step) in self.steps().enumerate() {
            let undisturbed = start.copy();
            let expected = undisturbed.take(step, &[]).await;
            let calls = undisturbed.cluster.faults.writes();
            // How a pipeline begins is the scenario `creation`'s to try.
            let calls = if number == 0 && !self.steps.is_empty() {
                Vec::new()
            } else {
                calls
            };
            for (call, writes) in calls.into_iter().enumerate() {
                // A death changes as much as the writes before it: those before a call need no run of their own, but for
                // the first, and neither do those after a question.
                let faults = match (call, writes) {
                    (0, _) => &[Fault::Refused, Fault::DiesBefore][..],
                    (_, false) => &[Fault::Refused],
                    (_, true) => &[Fault::Refused, Fault::Lost, Fault::DiesAfter],
                };
                for fault in faults {
                    let outcome = start.copy().take(step, &[(call, *fault)]).await;
                    pretty_assertions::assert_eq!(expected, outcome, "step {number}, call {call}: {fault:?}");
                }
            }
            start = undisturbed;
        }
    }

    /// All steps, one after the other.
    async fn undisturbed(&self) -> Outcome {
        let outside = Outside::of(&World::with(&(self.spec)()));
        for step in self.steps() {
            outside.take(step, &[]).await;
        }
        outside.outcome()
    }

    /// A run in which steps and moves of what is outside come in the middle of passes, too.
    async fn disturbed(&self, disturbance: &Disturbance) -> Outcome {
        let mut world = World::with(&(self.spec)());
        let outside = Outside::of(&world);
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
        settle(&mut world).await;
        while let Some(step) = next() {
            step(&outside);
            settle(&mut world).await;
        }
        rests(&mut world).await;
        outside.outcome()
    }
}

/// Another operator finds nothing to do.
async fn rests(world: &mut World) {
    let cluster = world.cluster.clone();
    cluster.faults.end();
    world.restart_operator();
    let before = cluster.version();
    let _ = world.pass().await;
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
        16
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
