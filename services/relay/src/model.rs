//! A model of relays that take over from each other, the lease and the checkpoint, of which every reachable state is visited.
//!
//! Transactions commit in any order that the locks on their orders allow; relays read, publish and save, and lose their lease
//! between any two steps. One that crashes is one that takes no further step after that, so there is no step for it. The
//! tracker, the lanes and the invariants are the real ones.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{Hash, Hasher},
};

use stateright::{Checker as _, Model, Property};

use crate::{
    invariants::{Audit, Violation, advances},
    lanes::{Lanes, Turn},
    tracker::{Checkpoint, Entry, Snapshot, Tracker},
};

/// A transaction with one event.
struct Transaction {
    outbox_id: i64,
    /// Not in the order of the ids: the third took its id long before it wrote.
    xid: u64,
    lane: u64,
}

const TRANSACTIONS: [Transaction; 3] = [
    Transaction {
        outbox_id: 1,
        xid: 12,
        lane: 0,
    },
    Transaction {
        outbox_id: 2,
        xid: 11,
        lane: 1,
    },
    Transaction {
        outbox_id: 3,
        xid: 10,
        lane: 0,
    },
];
const LANES: usize = 2;
const FIRST_XID: u64 = 10;
/// So often may the lease be claimed.
const TERMS: u8 = 2;

struct Relays;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    committed: [bool; TRANSACTIONS.len()],
    /// What Kafka holds of each lane, by outbox id.
    kafka: [Vec<i64>; LANES],
    checkpoint: Checkpoint,
    token: u8,
    held: bool,
    /// Those that have claimed the lease, by term.
    relays: Vec<Relay>,
    violation: Option<Violation>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Relay {
    token: u8,
    tracker: Tracker,
    lanes: Derived<Lanes<usize>>,
    previous: Snapshot,
    window: Option<Snapshot>,
    /// Rows of the window that are still to be read.
    unread: Vec<i64>,
    /// Events handed to Kafka by sequence number, and whether it has them.
    in_flight: BTreeMap<usize, (i64, bool)>,
}

/// Follows from the rest of the state, and so is left out when states are compared.
#[derive(Debug, Clone)]
struct Derived<T>(T);

impl<T> PartialEq for Derived<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Derived<T> {}

impl<T> Hash for Derived<T> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Commit(usize),
    /// The lease ends, whatever its holder thinks.
    Expire,
    Claim,
    Look(usize),
    Read(usize),
    /// Kafka appends an event.
    Append(usize, usize),
    /// The relay hears of it.
    Acknowledge(usize, usize),
    Save(usize),
}

impl State {
    fn snapshot(&self) -> Snapshot {
        let done = |transaction: &&(bool, u64)| transaction.0;
        let all: Vec<_> = self
            .committed
            .iter()
            .copied()
            .zip(TRANSACTIONS.map(|t| t.xid))
            .collect();
        let next = all
            .iter()
            .filter(done)
            .map(|t| t.1 + 1)
            .max()
            .unwrap_or(FIRST_XID);
        let mut open: Vec<_> = all.iter().filter(|t| !t.0 && t.1 < next).map(|t| t.1).collect();
        open.sort_unstable();
        let first = open.first().copied().unwrap_or(next);
        let open: Vec<_> = open.iter().map(u64::to_string).collect();
        Snapshot(format!("{first}:{next}:{}", open.join(",")).into())
    }

    /// The ids of the committed events that `is_wanted` wants.
    fn rows(&self, is_wanted: impl Fn(&Transaction) -> bool) -> Vec<i64> {
        let committed = TRANSACTIONS
            .iter()
            .zip(self.committed)
            .filter(|(_, committed)| *committed);
        committed
            .filter(|(row, _)| is_wanted(row))
            .map(|(row, _)| row.outbox_id)
            .collect()
    }

    /// What counts as published, as the view `outbox_events` tells it.
    fn covered(&self) -> Vec<i64> {
        let Checkpoint { snapshot, window } = &self.checkpoint;
        self.rows(|row| {
            sees(snapshot, row.xid)
                || window
                    .as_ref()
                    .is_some_and(|(window, position)| sees(window, row.xid) && row.outbox_id <= *position)
        })
    }

    fn audit(&self) -> Result<Audit, Violation> {
        let mut audit = Audit::default();
        for (lane, published) in (0..).zip(&self.kafka) {
            for id in published {
                audit.published(lane, *id)?;
            }
        }
        audit.committed(&self.rows(|_| true).into_iter().collect::<HashSet<_>>())?;
        Ok(audit)
    }
}

impl Relay {
    fn new(state: &State) -> Self {
        let mut relay = Self {
            token: state.token,
            tracker: Tracker::new(state.checkpoint.clone()),
            lanes: Derived(Lanes::new(HashSet::new())),
            previous: state.checkpoint.snapshot.clone(),
            window: None,
            unread: Vec::new(),
            in_flight: BTreeMap::new(),
        };
        if let Some((window, position)) = &state.checkpoint.window {
            relay.begin(state, window.clone(), *position);
        }
        relay
    }

    fn look(&mut self, state: &State) {
        let current = state.snapshot();
        self.tracker.open(current.clone());
        self.begin(state, current, 0);
    }

    fn begin(&mut self, state: &State, current: Snapshot, after: i64) {
        let previous = &self.previous;
        self.unread =
            state.rows(|row| !sees(previous, row.xid) && sees(&current, row.xid) && row.outbox_id > after);
        self.window = Some(current);
        self.end_if_read();
    }

    fn end_if_read(&mut self) {
        if self.unread.is_empty() {
            self.tracker.close();
            if let Some(window) = self.window.take() {
                self.previous = window;
            }
        }
    }

    fn read(&mut self) {
        let row = transaction(self.unread.remove(0));
        let sequence = self.tracker.push(Entry {
            outbox_id: row.outbox_id,
            xid: row.xid,
            lane: row.lane,
            created_at: 0,
            bytes: 0,
        });
        if let Turn::Send(sequence) = self.lanes.0.arrive(row.lane, sequence) {
            self.in_flight.insert(sequence, (row.outbox_id, false));
        }
        self.end_if_read();
    }

    fn acknowledge(&mut self, sequence: usize) {
        self.in_flight.remove(&sequence);
        let Some(entry) = self.tracker.settle(sequence) else {
            return;
        };
        if let Some(next) = self.lanes.0.acknowledged(entry.lane)
            && let Some(entry) = self.tracker.entry(next)
        {
            self.in_flight.insert(next, (entry.outbox_id, false));
        }
    }
}

impl Model for Relays {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let snapshot = Snapshot("1:1:".into());
        vec![State {
            committed: Default::default(),
            kafka: Default::default(),
            checkpoint: Checkpoint {
                snapshot,
                window: None,
            },
            token: 0,
            held: false,
            relays: Vec::new(),
            violation: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (index, row) in TRANSACTIONS.iter().enumerate() {
            // An order is locked until its earlier transactions have ended.
            let mut before = TRANSACTIONS[..index].iter().zip(state.committed);
            if !state.committed[index] && before.all(|(other, committed)| committed || other.lane != row.lane)
            {
                actions.push(Action::Commit(index));
            }
        }
        if state.held {
            actions.push(Action::Expire);
        }
        if !state.held && state.token < TERMS {
            actions.push(Action::Claim);
        }
        for (index, relay) in state.relays.iter().enumerate() {
            if relay.window.is_some() {
                actions.push(Action::Read(index));
            } else if relay.previous != state.snapshot() {
                actions.push(Action::Look(index));
            }
            for (sequence, (_, appended)) in &relay.in_flight {
                actions.push(if *appended {
                    Action::Acknowledge(index, *sequence)
                } else {
                    Action::Append(index, *sequence)
                });
            }
            // Without the token it would be the end of it.
            if relay.tracker.has_moved() && relay.token == state.token {
                actions.push(Action::Save(index));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        match action {
            Action::Commit(index) => next.committed[index] = true,
            Action::Expire => next.held = false,
            Action::Claim => {
                next.token += 1;
                next.held = true;
                next.relays.push(Relay::new(&next));
            }
            Action::Look(index) => next.relays[index].look(last),
            Action::Read(index) => next.relays[index].read(),
            Action::Append(index, sequence) => {
                let (id, appended) = next.relays[index].in_flight.get_mut(&sequence)?;
                *appended = true;
                let lane = usize::from(transaction(*id).lane != 0);
                next.kafka[lane].push(*id);
            }
            Action::Acknowledge(index, sequence) => next.relays[index].acknowledge(sequence),
            Action::Save(index) => {
                let relay = &mut next.relays[index];
                let checkpoint = relay.tracker.checkpoint();
                next.violation = advances(&next.checkpoint, &checkpoint).err();
                next.checkpoint = checkpoint;
                relay.tracker.saved();
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what counts as published is in Kafka", |_, state: &State| {
                state
                    .audit()
                    .is_ok_and(|audit| audit.covers(state.covered()).is_ok())
            }),
            Property::always(
                "events of an order are first published in order",
                |_, state: &State| state.audit().is_ok(),
            ),
            Property::always("the checkpoint never goes back", |_, state: &State| {
                state.violation.is_none()
            }),
            Property::always("nothing is repeated without a takeover", |_, state: &State| {
                state.token > 1 || state.audit().is_ok_and(|audit| audit.duplicates() == 0)
            }),
            Property::sometimes("everything is published, after a takeover", |_, state: &State| {
                state.token == TERMS && state.covered().len() == TRANSACTIONS.len()
            }),
            Property::sometimes("something is repeated", |_, state: &State| {
                state.audit().is_ok_and(|audit| audit.duplicates() > 0)
            }),
        ]
    }
}

fn transaction(outbox_id: i64) -> &'static Transaction {
    TRANSACTIONS
        .iter()
        .find(|row| row.outbox_id == outbox_id)
        .expect("an event of the model")
}

/// `pg_visible_in_snapshot`
fn sees(snapshot: &Snapshot, xid: u64) -> bool {
    let (first, next) = snapshot.bounds().expect("a snapshot");
    let open = snapshot.0.rsplit(':').next().unwrap_or_default();
    xid < first || (xid < next && !open.split(',').any(|open| open == xid.to_string()))
}

#[test]
fn whatever_relays_do_nothing_is_lost_and_order_is_kept() {
    let checker = Relays.checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}
