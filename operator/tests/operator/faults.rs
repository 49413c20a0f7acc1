//! What can happen to a call to the API server or to a store: it fails, it is carried out and its answer is lost, or the
//! operator dies before or after it. And what else happens in the world meanwhile.

use std::{
    collections::BTreeMap,
    fmt,
    future::pending,
    sync::{Arc, Mutex, MutexGuard},
};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::sync::Notify;

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with an error.
    Refused,
    /// It is carried out, and answered with an error.
    Lost,
    /// The operator dies before it arrives.
    DiesBefore,
    /// The operator dies when it has been carried out.
    DiesAfter,
}

/// Counts the calls, and lets faults happen to those that a test has chosen. Clones share one count.
#[derive(Clone, Default)]
pub struct Faults(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    died: Notify,
}

#[derive(Default)]
struct State {
    calls: usize,
    plan: BTreeMap<usize, Fault>,
    /// By the number of the call before which they happen.
    meanwhile: BTreeMap<usize, Vec<Meanwhile>>,
    /// Lets calls that are under way together arrive in any order.
    order: Option<SmallRng>,
    /// Whether each call changed something.
    writes: Vec<bool>,
    ended: bool,
    happened: usize,
}

/// Something that happens outside the operator.
pub type Meanwhile = Box<dyn FnOnce() + Send>;

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

impl Faults {
    /// From now on, lets `plan` happen to the calls of these numbers, counted from 0.
    pub fn plan(&self, plan: impl IntoIterator<Item = (usize, Fault)>) {
        let mut state = self.lock();
        state.calls = 0;
        state.ended = false;
        state.writes.clear();
        state.plan = plan.into_iter().collect();
    }

    /// Something happens just before a call.
    pub fn meanwhile(&self, call: usize, work: Meanwhile) {
        self.lock().meanwhile.entry(call).or_default().push(work);
    }

    /// Calls that are under way together arrive in an order that `seed` gives.
    pub fn shuffle(&self, seed: u64) {
        self.lock().order = Some(SmallRng::seed_from_u64(seed));
    }

    /// Nothing happens any more, and nothing is counted.
    pub fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.plan.clear();
        state.meanwhile.clear();
    }

    /// How many faults have happened.
    pub fn happened(&self) -> usize {
        self.lock().happened
    }

    /// For each call between the plan and its end, whether it was one that can change something.
    pub fn writes(&self) -> Vec<bool> {
        self.lock().writes.clone()
    }

    /// Waits for the operator's death.
    pub async fn death(&self) {
        self.0.died.notified().await;
    }

    /// Carries out a call, or not; `None` stands for an answer that never came.
    pub async fn call<T>(&self, writes: bool, work: impl FnOnce() -> T) -> Option<T> {
        let pauses = self
            .lock()
            .order
            .as_mut()
            .map_or(0, |order| order.random_range(0..6));
        for _ in 0..pauses {
            tokio::task::yield_now().await;
        }
        let (fault, meanwhile) = {
            let mut state = self.lock();
            let call = state.calls;
            state.calls += 1;
            if !state.ended {
                state.writes.push(writes);
            }
            let fault = state.plan.remove(&call);
            state.happened += usize::from(fault.is_some());
            (fault, state.meanwhile.remove(&call))
        };
        for happens in meanwhile.into_iter().flatten() {
            happens();
        }
        match fault {
            None => return Some(work()),
            Some(Fault::Refused) => return None,
            Some(Fault::Lost) => {
                work();
                return None;
            }
            Some(Fault::DiesBefore) => {}
            Some(Fault::DiesAfter) => drop(work()),
        }
        self.0.died.notify_one();
        pending().await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }
}
