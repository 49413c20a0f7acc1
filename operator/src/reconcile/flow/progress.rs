//! How far the indexers have come, from one look to the next: which partitions stand still, and how fast the others go.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::super::services::{Answer, IndexerStatus};

/// A partition stands still when it has events and none of them was indexed for so long.
pub const STANDS_STILL: Duration = Duration::from_mins(1);
/// Two looks within this time are one: Kafka is asked for the lag every two seconds.
const ONE_LOOK: Duration = Duration::from_secs(3);

/// Topic and number of a partition.
pub type Partition = (String, i32);

/// What is known of a partition.
#[derive(Clone, Debug)]
pub struct Mark {
    pub committed: i64,
    pub lag: u64,
    /// Since when it has had events and has not moved.
    since: Instant,
    /// It moved from the last look to this one.
    pub moves: bool,
}

/// How far the indexers have come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    looked: Option<Instant>,
    partitions: BTreeMap<Partition, Mark>,
    /// Events a second from the last look to this one.
    rate: Option<f64>,
}

impl Progress {
    /// Takes in what the indexers say. Partitions of one that does not answer stay as they were.
    pub fn note(&mut self, indexers: &[Answer<IndexerStatus>], now: Instant) {
        let elapsed = self.looked.map(|looked| now.duration_since(looked));
        if elapsed.is_some_and(|elapsed| elapsed < ONE_LOOK) {
            return;
        }
        self.looked = Some(now);
        let mut indexed = None;
        let mut marks = BTreeMap::new();
        for partition in indexers
            .iter()
            .filter_map(|answer| answer.said.as_ref().ok())
            .flat_map(|status| &status.partitions)
        {
            let key = (partition.topic.clone(), partition.partition);
            let before = self.partitions.get(&key);
            // An indexer that does not tell how far it is gets the benefit of the doubt.
            let advance = match (before, partition.committed) {
                (Some(before), Some(committed)) => Some(committed - before.committed),
                _ => None,
            };
            if let Some(advance) = advance {
                indexed = Some(indexed.unwrap_or(0) + advance.max(0));
            }
            let waits = partition.lag > 0 && partition.committed.is_some();
            let since = match before {
                Some(before) if waits && before.lag > 0 && advance == Some(0) => before.since,
                _ => now,
            };
            marks.insert(
                key,
                Mark {
                    committed: partition.committed.unwrap_or_default(),
                    lag: partition.lag,
                    since,
                    moves: advance.is_some_and(|advance| advance > 0),
                },
            );
        }
        if indexers.iter().any(|answer| answer.said.is_err()) {
            for (key, mark) in std::mem::take(&mut self.partitions) {
                marks.entry(key).or_insert(Mark { moves: false, ..mark });
            }
        }
        self.partitions = marks;
        self.rate = match (indexed, elapsed) {
            (Some(indexed), Some(elapsed)) => u32::try_from(indexed)
                .ok()
                .map(|indexed| f64::from(indexed) / elapsed.as_secs_f64()),
            _ => None,
        };
    }

    /// The partitions that stand still.
    #[must_use]
    pub fn standing_still(&self, now: Instant) -> Vec<(&Partition, &Mark)> {
        let still = |mark: &Mark| mark.lag > 0 && now.duration_since(mark.since) >= STANDS_STILL;
        self.partitions.iter().filter(|(_, mark)| still(mark)).collect()
    }

    /// How long so many events take, as fast as it went lately.
    #[must_use]
    pub fn time_for(&self, events: u64) -> Option<Duration> {
        let rate = self.rate.filter(|rate| *rate > 0.0)?;
        let events = u32::try_from(events).ok()?;
        Duration::try_from_secs_f64(f64::from(events) / rate).ok()
    }

    /// Events a second from the last look to this one.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// Events in partitions that move.
    #[must_use]
    pub fn moving_lag(&self) -> u64 {
        self.partitions
            .values()
            .filter(|mark| mark.moves)
            .map(|mark| mark.lag)
            .sum()
    }

    /// Partitions that move and have events left.
    #[must_use]
    pub fn moving_partitions(&self) -> usize {
        let busy = |mark: &&Mark| mark.moves && mark.lag > 0;
        self.partitions.values().filter(busy).count()
    }
}
