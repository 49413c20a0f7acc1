//! Order within an aggregate: an event is sent only when Kafka has acknowledged the one before it.
//!
//! This holds across topics, where Kafka itself promises no order, and means that when an event is refused none of its
//! successors is out already: they can all wait behind it. A lane is a 64-bit hash of the aggregate. Two aggregates that
//! share one wait for each other without need, which harms nothing.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasherDefault, DefaultHasher, Hash as _, Hasher as _},
};

/// The lane of an aggregate.
#[must_use]
pub fn lane(aggregate_type: &str, aggregate_id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (aggregate_type, aggregate_id).hash(&mut hasher);
    hasher.finish()
}

/// What to do with an event now.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn<T> {
    /// Send it.
    Send(T),
    /// Nothing: it waits for the one before it.
    Wait,
    /// Park it: one before it is parked.
    Park(T),
}

/// The lanes on which something is under way or parked.
#[derive(Debug, Clone)]
pub struct Lanes<T> {
    /// Those with an event under way, and the events that wait for it.
    busy: HashMap<u64, VecDeque<T>, BuildHasherDefault<DefaultHasher>>,
    parked: HashSet<u64>,
}

impl<T> Lanes<T> {
    /// Lanes of which `parked` have parked events.
    #[must_use]
    pub fn new(parked: HashSet<u64>) -> Self {
        Self {
            busy: HashMap::default(),
            parked,
        }
    }

    /// An event arrives.
    pub fn arrive(&mut self, lane: u64, event: T) -> Turn<T> {
        if self.parked.contains(&lane) {
            return Turn::Park(event);
        }
        if let Some(waiting) = self.busy.get_mut(&lane) {
            waiting.push_back(event);
            Turn::Wait
        } else {
            self.busy.insert(lane, VecDeque::new());
            Turn::Send(event)
        }
    }

    /// The event under way is acknowledged; returns the one to send next.
    pub fn acknowledged(&mut self, lane: u64) -> Option<T> {
        let next = self.busy.get_mut(&lane).and_then(VecDeque::pop_front);
        if next.is_none() {
            self.busy.remove(&lane);
        }
        next
    }

    /// The event under way is refused and will be parked; returns those that are to be parked behind it.
    pub fn refused(&mut self, lane: u64) -> VecDeque<T> {
        self.parked.insert(lane);
        self.busy.remove(&lane).unwrap_or_default()
    }

    /// Lanes with parked events.
    #[must_use]
    pub fn parked(&self) -> &HashSet<u64> {
        &self.parked
    }

    /// Replaces the lanes with parked events, by what the table says when every parked event is in it.
    pub fn set_parked(&mut self, parked: HashSet<u64>) {
        self.parked = parked;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_of_a_lane_is_under_way_and_none_overtakes_a_parked_one() {
        let mut lanes = Lanes::new(HashSet::new());
        assert_eq!(lanes.arrive(1, "a"), Turn::Send("a"));
        assert_eq!(lanes.arrive(1, "b"), Turn::Wait);
        assert_eq!(lanes.arrive(2, "x"), Turn::Send("x"));
        assert_eq!(lanes.arrive(1, "c"), Turn::Wait);
        assert_eq!(lanes.acknowledged(1), Some("b"));
        assert_eq!(lanes.refused(1), ["c"]);
        assert_eq!(lanes.arrive(1, "d"), Turn::Park("d"));
        assert_eq!(lanes.acknowledged(2), None);
        lanes.set_parked(HashSet::new());
        assert_eq!(lanes.arrive(1, "e"), Turn::Send("e"));
    }
}
