//! Which offsets may be committed: in each partition, all before the first batch that is not settled.

use std::collections::{BTreeMap, VecDeque};

use crate::batch::BatchId;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Partition {
    pub(crate) topic: String,
    pub(crate) number: i32,
}

impl Partition {
    pub(crate) fn new(topic: impl Into<String>, number: i32) -> Self {
        Self {
            topic: topic.into(),
            number,
        }
    }

    pub(crate) fn is(&self, topic: &str, number: i32) -> bool {
        self.number == number && self.topic == topic
    }
}

impl std::fmt::Display for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic, self.number)
    }
}

/// The progress of the partitions that are assigned to this process.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    partitions: BTreeMap<Partition, Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    /// In the order of their records.
    batches: VecDeque<Stretch>,
    /// Everything before this offset is settled.
    settled: Option<i64>,
    /// As last given out by [`Offsets::take_progress`].
    taken: Option<i64>,
}

/// The part of a batch that is of one partition.
#[derive(Debug)]
struct Stretch {
    batch: BatchId,
    next_offset: i64,
    settled: bool,
}

impl Offsets {
    pub(crate) fn assign(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            self.partitions.insert(partition.clone(), Progress::default());
        }
    }

    /// Forgets the partitions: what is settled later of their records counts no more.
    pub(crate) fn release(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            self.partitions.remove(partition);
        }
    }

    pub(crate) fn owns(&self, topic: &str, number: i32) -> bool {
        self.partitions
            .keys()
            .any(|partition| partition.is(topic, number))
    }

    /// A batch is on its way. Batches must be given in the order of their records.
    pub(crate) fn track(&mut self, batch: BatchId, next_offsets: &[(Partition, i64)]) {
        for (partition, next_offset) in next_offsets {
            if let Some(progress) = self.partitions.get_mut(partition) {
                progress.batches.push_back(Stretch {
                    batch,
                    next_offset: *next_offset,
                    settled: false,
                });
            }
        }
    }

    /// Everything in the batch is where it belongs.
    pub(crate) fn settle(&mut self, batch: BatchId) {
        for progress in self.partitions.values_mut() {
            if let Some(stretch) = progress.batches.iter_mut().find(|stretch| stretch.batch == batch) {
                stretch.settled = true;
            }
            while progress.batches.front().is_some_and(|stretch| stretch.settled) {
                progress.settled = progress.batches.pop_front().map(|stretch| stretch.next_offset);
            }
        }
    }

    /// Whether nothing of these partitions is on its way.
    pub(crate) fn are_settled(&self, partitions: &[Partition]) -> bool {
        let on_its_way = |partition| {
            self.partitions
                .get(partition)
                .is_some_and(|found| !found.batches.is_empty())
        };
        !partitions.iter().any(on_its_way)
    }

    /// Whether nothing at all is on its way.
    pub(crate) fn all_settled(&self) -> bool {
        self.partitions
            .values()
            .all(|progress| progress.batches.is_empty())
    }

    /// What may be committed and was not given out before.
    pub(crate) fn take_progress(&mut self) -> Vec<(Partition, i64)> {
        let mut progress = Vec::new();
        for (partition, found) in &mut self.partitions {
            if let Some(settled) = found.settled.filter(|_| found.settled != found.taken) {
                found.taken = found.settled;
                progress.push((partition.clone(), settled));
            }
        }
        progress
    }

    /// What may be committed of these partitions, whether given out before or not.
    pub(crate) fn settled(&self, partitions: &[Partition]) -> Vec<(Partition, i64)> {
        let settled =
            |partition: &Partition| Some((partition.clone(), self.partitions.get(partition)?.settled?));
        partitions.iter().filter_map(settled).collect()
    }

    pub(crate) fn partitions(&self) -> Vec<Partition> {
        self.partitions.keys().cloned().collect()
    }

    /// What was given out could not be committed: gives it out again.
    pub(crate) fn untake(&mut self) {
        for progress in self.partitions.values_mut() {
            progress.taken = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one() -> Partition {
        Partition::new("order.created", 0)
    }

    #[test]
    fn a_batch_that_waits_holds_up_its_own_partitions_only() {
        let two = Partition::new("order.created", 1);
        let mut offsets = Offsets::default();
        offsets.assign(&[one(), two.clone()]);
        offsets.track(1, &[(one(), 10)]);
        offsets.track(2, &[(one(), 20), (two.clone(), 5)]);
        offsets.settle(2);
        assert_eq!(offsets.take_progress(), [(two.clone(), 5)]);
        assert!(offsets.are_settled(std::slice::from_ref(&two)) && !offsets.are_settled(&[one()]));
        offsets.settle(1);
        assert_eq!(offsets.take_progress(), [(one(), 20)]);
        assert_eq!(offsets.take_progress(), []);
        offsets.untake();
        assert_eq!(offsets.take_progress(), [(one(), 20), (two, 5)]);
    }

    #[test]
    fn what_is_settled_after_a_partition_was_released_does_not_count() {
        let mut offsets = Offsets::default();
        offsets.assign(&[one()]);
        offsets.track(1, &[(one(), 10)]);
        offsets.release(&[one()]);
        offsets.assign(&[one()]);
        offsets.settle(1);
        assert_eq!(offsets.take_progress(), []);
        assert!(offsets.all_settled());
    }

    proptest! {
        /// Whatever the order in which batches are settled: never is an offset given out that is not settled, and in
        /// the end all are.
        #[test]
        fn only_the_settled_prefix_is_given_out(order in Just((0..20_u64).collect::<Vec<_>>()).prop_shuffle()) {
            let mut offsets = Offsets::default();
            offsets.assign(&[one()]);
            for batch in 0..20 {
                offsets.track(batch, &[(one(), i64::try_from(batch).unwrap() + 1)]);
            }
            let mut settled = std::collections::BTreeSet::new();
            let mut committed = 0;
            for batch in order {
                offsets.settle(batch);
                settled.insert(batch);
                for (_, offset) in offsets.take_progress() {
                    prop_assert!(offset > committed);
                    committed = offset;
                }
                let prefix = (0..20).take_while(|batch| settled.contains(batch)).count();
                prop_assert_eq!(committed, i64::try_from(prefix).unwrap());
            }
            prop_assert!(offsets.all_settled());
        }
    }
}
