//! Which events are under way, and how far everything is published.
//!
//! Events enter in the order in which their window is read and may be settled (acknowledged or parked) in any order; the
//! checkpoint covers exactly the settled prefix. Nothing here does I/O, so a crash at any point is the same as forgetting
//! this value and starting from the checkpoint that was saved last.

use std::{collections::VecDeque, sync::Arc};

/// A PostgreSQL snapshot in its text form (`xmin:xmax:xip,…`). What is visible in it is PostgreSQL's to say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Snapshot(pub Arc<str>);

impl Snapshot {
    /// The first transaction that was still open, and the first that had not begun, as far as is known. Both rise from one
    /// snapshot to the next.
    #[must_use]
    pub fn bounds(&self) -> Option<(u64, u64)> {
        let mut parts = self.0.splitn(3, ':');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// What is published: all that is visible in `snapshot`, and of what became visible since then until `window`, if there
/// is one, the events with an id up to the position.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    pub snapshot: Snapshot,
    pub window: Option<(Snapshot, i64)>,
}

/// An event under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    pub outbox_id: i64,
    pub xid: u64,
    /// Events of one lane (in practice: of one aggregate) are published one after the other.
    pub lane: u64,
    /// Microseconds since 1970, by PostgreSQL's clock.
    pub created_at: i64,
    pub bytes: usize,
}

/// The events between the checkpoint and the last one read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tracker {
    snapshot: Snapshot,
    /// Up to which id the front window is published; 0 where nothing of it is.
    position: i64,
    windows: VecDeque<Window>,
    entries: VecDeque<(Entry, bool)>,
    /// Sequence number of the front entry.
    first: usize,
    unsettled: usize,
    bytes: usize,
    moved: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Window {
    snapshot: Snapshot,
    /// The sequence number after its last event, once it has been read to its end.
    end: Option<usize>,
}

impl Tracker {
    /// Starts where `checkpoint` says; a window in progress is the first one open.
    #[must_use]
    pub fn new(checkpoint: Checkpoint) -> Self {
        let (position, windows) = match checkpoint.window {
            Some((snapshot, position)) => (position, VecDeque::from([Window { snapshot, end: None }])),
            None => (0, VecDeque::new()),
        };
        let snapshot = checkpoint.snapshot;
        Self {
            snapshot,
            position,
            windows,
            entries: VecDeque::new(),
            first: 0,
            unsettled: 0,
            bytes: 0,
            moved: false,
        }
    }

    /// A window begins. The one before must be closed.
    pub fn open(&mut self, snapshot: Snapshot) {
        debug_assert!(
            self.windows.back().is_none_or(|window| window.end.is_some()),
            "two windows are open"
        );
        self.windows.push_back(Window { snapshot, end: None });
    }

    /// The open window has been read to its end.
    pub fn close(&mut self) {
        let end = self.first + self.entries.len();
        if let Some(window) = self.windows.back_mut() {
            window.end = Some(end);
        }
        self.advance();
    }

    /// The next event of the open window; returns its sequence number.
    pub fn push(&mut self, entry: Entry) -> usize {
        self.unsettled += 1;
        self.bytes += entry.bytes;
        self.entries.push_back((entry, false));
        self.first + self.entries.len() - 1
    }

    /// Kafka has the event, or it is to be parked. `None` where that was known already.
    pub fn settle(&mut self, sequence: usize) -> Option<Entry> {
        let index = sequence.checked_sub(self.first)?;
        let (entry, settled) = self.entries.get_mut(index).filter(|(_, settled)| !settled)?;
        *settled = true;
        let entry = *entry;
        self.unsettled -= 1;
        self.bytes -= entry.bytes;
        if index == 0 {
            self.advance();
        }
        Some(entry)
    }

    /// The event with this sequence number, unless it is settled and behind the checkpoint.
    #[must_use]
    pub fn entry(&self, sequence: usize) -> Option<Entry> {
        self.entries
            .get(sequence.checked_sub(self.first)?)
            .map(|(entry, _)| *entry)
    }

    /// Events that are neither acknowledged nor parked.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// Events that the checkpoint does not cover yet.
    #[must_use]
    pub fn uncovered(&self) -> usize {
        self.entries.len()
    }

    /// The size of the events that are not settled.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first event that is not settled.
    #[must_use]
    pub fn oldest(&self) -> Option<Entry> {
        self.entries.front().map(|(entry, _)| *entry)
    }

    /// Whether the checkpoint has moved over an event since [`Tracker::saved`]. Windows without events do not count: a
    /// checkpoint before them says the same.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.moved
    }

    /// The checkpoint, as it is now, has been saved.
    pub fn saved(&mut self) {
        self.moved = false;
    }

    /// How far everything is published.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        let window = self.windows.front().filter(|_| self.position > 0);
        let window = window.map(|window| (window.snapshot.clone(), self.position));
        Checkpoint {
            snapshot: self.snapshot.clone(),
            window,
        }
    }

    fn advance(&mut self) {
        loop {
            if let Some(finished) = self.windows.pop_front_if(|window| window.end == Some(self.first)) {
                self.snapshot = finished.snapshot;
                self.moved |= self.position > 0;
                self.position = 0;
                continue;
            }
            let Some((entry, _)) = self.entries.pop_front_if(|(_, settled)| *settled) else {
                return;
            };
            self.position = entry.outbox_id;
            self.first += 1;
            self.moved = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(name: &str) -> Snapshot {
        Snapshot(name.into())
    }

    fn entry(outbox_id: i64) -> Entry {
        Entry {
            outbox_id,
            xid: 0,
            lane: 0,
            created_at: 0,
            bytes: 1,
        }
    }

    #[test]
    fn the_checkpoint_covers_the_settled_prefix_only() {
        let mut tracker = Tracker::new(Checkpoint {
            snapshot: snapshot("a"),
            window: None,
        });
        tracker.open(snapshot("b"));
        let [first, second, third] = [3, 5, 9].map(|id| tracker.push(entry(id)));
        tracker.close();
        tracker.settle(second);
        assert_eq!(
            tracker.checkpoint(),
            Checkpoint {
                snapshot: snapshot("a"),
                window: None
            }
        );
        tracker.settle(first);
        assert_eq!(tracker.checkpoint().window, Some((snapshot("b"), 5)));
        assert_eq!(tracker.settle(second), None);
        tracker.settle(third);
        assert_eq!(
            tracker.checkpoint(),
            Checkpoint {
                snapshot: snapshot("b"),
                window: None
            }
        );
        assert_eq!((tracker.unsettled(), tracker.bytes()), (0, 0));
    }

    #[test]
    fn a_window_in_progress_is_resumed_and_finished() {
        let start = Checkpoint {
            snapshot: snapshot("a"),
            window: Some((snapshot("b"), 7)),
        };
        let mut tracker = Tracker::new(start.clone());
        assert_eq!(tracker.checkpoint(), start);
        tracker.close();
        assert_eq!(
            tracker.checkpoint(),
            Checkpoint {
                snapshot: snapshot("b"),
                window: None
            }
        );
    }

    proptest! {
        /// Whatever the sizes of the windows and the order of settling, the checkpoint names the window and the id of
        /// the last event before the first unsettled one.
        #[test]
        fn the_checkpoint_is_the_longest_settled_prefix(
            sizes in prop::collection::vec(0_usize..5, 1..6),
            order in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        ) {
            let mut tracker = Tracker::new(Checkpoint { snapshot: snapshot("0"), window: None });
            let mut events = Vec::new();
            for (window, size) in sizes.iter().enumerate() {
                tracker.open(snapshot(&(window + 1).to_string()));
                for _ in 0..*size {
                    let outbox_id = i64::try_from(events.len()).unwrap() + 1;
                    events.push((window, outbox_id, tracker.push(entry(outbox_id)), false));
                }
                tracker.close();
            }
            for index in order {
                if events.is_empty() {
                    break;
                }
                let event = index.index(events.len());
                tracker.settle(events[event].2);
                events[event].3 = true;
            }
            let unsettled = events.iter().position(|event| !event.3);
            let window = unsettled.map_or(sizes.len(), |index| events[index].0);
            let position = unsettled.and_then(|index| index.checked_sub(1)).map(|before| &events[before]);
            let position = position.filter(|before| before.0 == window).map(|before| before.1);
            prop_assert_eq!(tracker.checkpoint(), Checkpoint {
                snapshot: snapshot(&window.to_string()),
                window: position.map(|position| (snapshot(&(window + 1).to_string()), position)),
            });
        }
    }
}
