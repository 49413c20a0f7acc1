//! What holds whenever relays run, crash and take over from each other. The running relay asserts the part that it can
//! see, the model in `model.rs`, the tests and the benchmark all of it, by this code.

use std::collections::{HashMap, HashSet};

use crate::tracker::Checkpoint;

/// What must never happen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    #[error("the checkpoint would go back from {before:?} to {after:?}")]
    WentBack {
        before: Box<Checkpoint>,
        after: Box<Checkpoint>,
    },
    #[error("event {outbox_id} was first published after event {later} of the same order")]
    OutOfOrder { outbox_id: i64, later: i64 },
    #[error("event {outbox_id} counts as published and is not in Kafka")]
    Lost { outbox_id: i64 },
    #[error("event {outbox_id} was published and is not in the outbox")]
    NeverCommitted { outbox_id: i64 },
}

/// A checkpoint may only be replaced by one that covers as much: a later position in its window, or, when that is
/// finished, a later snapshot.
pub fn advances(before: &Checkpoint, after: &Checkpoint) -> Result<(), Violation> {
    let forward = if before.snapshot == after.snapshot {
        match (&before.window, &after.window) {
            (None, _) => true,
            (Some((window, position)), Some((same, further))) => window == same && position <= further,
            (Some(_), None) => false,
        }
    } else {
        let finished = before
            .window
            .as_ref()
            .map_or(&before.snapshot, |(window, _)| window);
        finished.bounds() <= after.snapshot.bounds()
    };
    if forward {
        return Ok(());
    }
    Err(Violation::WentBack {
        before: Box::new(before.clone()),
        after: Box::new(after.clone()),
    })
}

/// Compares what Kafka holds with what was committed.
#[derive(Debug, Default)]
pub struct Audit {
    seen: HashSet<i64>,
    /// By lane, the event that was first published last.
    latest: HashMap<u64, i64>,
    duplicates: usize,
}

impl Audit {
    /// The next message of a lane. Whatever is repeated, the first publication of each event comes in order.
    pub fn published(&mut self, lane: u64, outbox_id: i64) -> Result<(), Violation> {
        if !self.seen.insert(outbox_id) {
            self.duplicates += 1;
            return Ok(());
        }
        match self.latest.insert(lane, outbox_id) {
            Some(later) if later > outbox_id => Err(Violation::OutOfOrder { outbox_id, later }),
            _ => Ok(()),
        }
    }

    /// Events that must have been published.
    pub fn covers(&self, outbox_ids: impl IntoIterator<Item = i64>) -> Result<(), Violation> {
        let lost = outbox_ids.into_iter().find(|id| !self.seen.contains(id));
        lost.map_or(Ok(()), |outbox_id| Err(Violation::Lost { outbox_id }))
    }

    /// All events that were ever committed: nothing else may have been published.
    pub fn committed(&self, outbox_ids: &HashSet<i64>) -> Result<(), Violation> {
        let never = self.seen.iter().find(|id| !outbox_ids.contains(id));
        never.map_or(Ok(()), |&outbox_id| Err(Violation::NeverCommitted { outbox_id }))
    }

    /// Messages that repeat an earlier one.
    #[must_use]
    pub fn duplicates(&self) -> usize {
        self.duplicates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::Snapshot;

    fn checkpoint(snapshot: &str, window: Option<(&str, i64)>) -> Checkpoint {
        Checkpoint {
            snapshot: Snapshot(snapshot.into()),
            window: window.map(|(window, position)| (Snapshot(window.into()), position)),
        }
    }

    #[test]
    fn a_checkpoint_never_goes_back() {
        let inside = checkpoint("5:9:7", Some(("9:12:", 40)));
        for (before, after, forward) in [
            (checkpoint("1:1:", None), inside.clone(), true),
            (inside.clone(), inside.clone(), true),
            (inside.clone(), checkpoint("5:9:7", Some(("9:12:", 41))), true),
            (inside.clone(), checkpoint("5:9:7", Some(("9:12:", 39))), false),
            (inside.clone(), checkpoint("5:9:7", Some(("9:13:", 50))), false),
            (inside.clone(), checkpoint("5:9:7", None), false),
            (inside.clone(), checkpoint("9:12:", None), true),
            (inside.clone(), checkpoint("11:20:12", Some(("30:30:", 2))), true),
            (inside, checkpoint("8:10:", None), false),
        ] {
            assert_eq!(advances(&before, &after).is_ok(), forward, "{before:?} {after:?}");
        }
    }

    #[test]
    fn an_audit_tells_what_is_wrong() {
        let mut audit = Audit::default();
        for (lane, id) in [(1, 10), (2, 5), (1, 12), (1, 10), (2, 6)] {
            audit.published(lane, id).unwrap();
        }
        assert_eq!(audit.duplicates(), 1);
        audit.covers([5, 6, 10, 12]).unwrap();
        assert_eq!(audit.covers([5, 11]), Err(Violation::Lost { outbox_id: 11 }));
        assert_eq!(
            audit.committed(&HashSet::from([5, 6, 10])),
            Err(Violation::NeverCommitted { outbox_id: 12 })
        );
        assert_eq!(
            audit.published(1, 11),
            Err(Violation::OutOfOrder {
                outbox_id: 11,
                later: 12
            })
        );
    }
}
