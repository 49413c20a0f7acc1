//! Which letters of a partition have been replayed.
//!
//! Kafka deletes no single record, so this stands beside them, as the committed offset of a consumer group that nobody is a
//! member of: all before the offset are replayed, and the commit's metadata names those after it, such as `17,20-25`.

use std::fmt::Write as _;

/// Kafka takes 4096 bytes, unless told otherwise. What does not fit is forgotten, that is, not known to be replayed.
const LONGEST: usize = 4_000;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// All before this offset are replayed.
    next: i64,
    /// Those after it, from and to, in their order and not touching.
    beyond: Vec<(i64, i64)>,
}

impl Marks {
    /// As they were committed; `first` is the first offset that Kafka still has.
    pub(super) fn new(first: i64, committed: Option<i64>, metadata: &str) -> Self {
        let mut marks = Self {
            next: first.max(committed.unwrap_or_default()),
            beyond: Vec::new(),
        };
        for range in metadata.split(',') {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            if let (Ok(from), Ok(to)) = (from.parse(), to.parse()) {
                marks.add(from, to);
            }
        }
        marks
    }

    /// All before this are replayed.
    pub(super) fn next(&self) -> i64 {
        self.next
    }

    /// Those that are beyond, for the commit.
    pub(super) fn metadata(&self) -> String {
        let mut text = String::new();
        for (from, to) in &self.beyond {
            let before = text.len();
            let comma = if text.is_empty() { "" } else { "," };
            let _ = match to - from {
                0 => write!(text, "{comma}{from}"),
                _ => write!(text, "{comma}{from}-{to}"),
            };
            if text.len() > LONGEST {
                text.truncate(before);
                break;
            }
        }
        text
    }

    pub(super) fn has(&self, offset: i64) -> bool {
        offset < self.next
            || self
                .beyond
                .iter()
                .any(|(from, to)| (*from..=*to).contains(&offset))
    }

    /// These are replayed, too.
    pub(super) fn add(&mut self, from: i64, to: i64) {
        if from > to {
            return;
        }
        self.beyond.push((from, to));
        self.beyond.sort_unstable();
        let mut merged: Vec<(i64, i64)> = Vec::new();
        for &(from, to) in &self.beyond {
            if from <= self.next {
                self.next = self.next.max(to.saturating_add(1));
                continue;
            }
            match merged.last_mut() {
                Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        self.beyond = merged;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn marks_survive_a_commit() {
        let mut marks = Marks::new(5, None, "");
        assert!(marks.has(4) && !marks.has(5));
        for offset in [9, 7, 8, 20] {
            marks.add(offset, offset);
        }
        assert_eq!((marks.next(), marks.metadata().as_str()), (5, "7-9,20"));
        assert_eq!(Marks::new(5, Some(5), "7-9,20"), marks);
        assert_eq!(
            Marks::new(8, Some(5), "7-9,20").next(),
            10,
            "older ones are gone from Kafka"
        );
        marks.add(5, 6);
        assert_eq!((marks.next(), marks.metadata().as_str()), (10, "20"));
        assert_eq!(Marks::new(0, Some(3), "x,,9-8,-").metadata(), "");
    }

    #[test]
    fn more_than_a_commit_can_hold_is_forgotten_from_the_end() {
        let mut marks = Marks::new(0, None, "");
        for offset in 1..2_000 {
            marks.add(2 * offset, 2 * offset);
        }
        let metadata = marks.metadata();
        assert!(
            metadata.len() <= LONGEST && metadata.starts_with("2,4,6,"),
            "{metadata}"
        );
        assert!(Marks::new(0, Some(0), &metadata).has(100));
    }

    proptest! {
        #[test]
        fn each_offset_is_marked_once_it_is_added(offsets in prop::collection::vec(0..60_i64, 0..40)) {
            let mut marks = Marks::new(3, None, "");
            for offset in &offsets {
                marks.add(*offset, *offset);
                marks = Marks::new(3, Some(marks.next()), &marks.metadata());
            }
            for offset in 0..60 {
                prop_assert_eq!(marks.has(offset), offset < 3 || offsets.contains(&offset));
            }
        }
    }
}
