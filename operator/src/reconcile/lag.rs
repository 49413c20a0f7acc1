//! How many indexers there are to be, where the spec leaves it to the lag. Pure.
//!
//! More replicas help while there is more to index than the ones that run get done, and only then: events that do not move
//! wait for something else (Elasticsearch, a person), and replicas that are not ready yet may be all that was missing. So
//! what is measured is how long the events in partitions that move would take, as fast as it went lately. Nobody can tell
//! from outside whether fewer replicas would do as well; that is tried, one replica at a time, and less and less often where
//! it had to be taken back.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    flow::{IN_TRANSIT, Progress},
    services::Seen,
    validate::Scaling,
};

/// The indexers are behind when the events that wait would take longer than this.
pub const BEHIND: Duration = Duration::from_secs(5);
/// How long they must have been behind before there are more of them.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How long the group may take to share the partitions anew before the next step.
pub const PAUSE: Duration = Duration::from_secs(45);
/// How long the indexers must have kept up before there is one fewer.
pub const STABLE: Duration = Duration::from_mins(5);
/// The same, at most, where it had to be taken back again and again.
pub const LONGEST_STABLE: Duration = Duration::from_hours(2);
/// So long after it was last taken back, that counts no more.
const FORGET: Duration = Duration::from_hours(6);
/// So many events that move are no lag.
const FEW: u64 = 100;

/// How the indexers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Some indexer does not tell, or none has a partition.
    Unknown,
    /// A partition stands still.
    Blocked,
    /// What waits will be done within a moment.
    KeptUp,
    /// Between kept up and behind, or nothing is known of the speed.
    Busy,
    /// What moves will take so long, and is in so many partitions.
    Behind { time: Duration, partitions: i32 },
}

impl Load {
    /// What the indexers say, against what they said before.
    #[must_use]
    pub fn of(seen: &Seen, progress: &Progress, now: Instant) -> Self {
        let mut lag = 0;
        let mut partitions = 0;
        for answer in &seen.indexers {
            let Ok(status) = &answer.said else {
                return Self::Unknown;
            };
            lag += status
                .partitions
                .iter()
                .map(|partition| partition.lag)
                .sum::<u64>();
            partitions += status.partitions.len();
        }
        if partitions == 0 {
            return Self::Unknown;
        }
        if !progress.standing_still(now).is_empty() {
            return Self::Blocked;
        }
        if lag < FEW || progress.time_for(lag).is_some_and(|time| time < IN_TRANSIT) {
            return Self::KeptUp;
        }
        match progress.time_for(progress.moving_lag()) {
            Some(time) if time > BEHIND => Self::Behind {
                time,
                partitions: i32::try_from(progress.moving_partitions()).unwrap_or(i32::MAX),
            },
            _ => Self::Busy,
        }
    }
}

/// What is remembered between two decisions. After a restart it is found again.
#[derive(Clone, Debug)]
pub struct Memory {
    behind: Option<Instant>,
    kept_up: Option<Instant>,
    /// When the number was changed last, and whether to fewer.
    changed: Option<(Instant, bool)>,
    /// How long the indexers must have kept up before there is one fewer.
    stable: Duration,
    /// When that had to be taken back last.
    taken_back: Option<Instant>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            behind: None,
            kept_up: None,
            changed: None,
            stable: STABLE,
            taken_back: None,
        }
    }
}

impl Memory {
    /// How many replicas there are to be, with `current` asked for at present. `settled`: all of those are ready, and of the version
    /// that is asked for.
    pub fn decide(&mut self, scaling: Scaling, current: i32, settled: bool, load: Load, now: Instant) -> i32 {
        let within = current.clamp(scaling.min, scaling.max);
        if within != current {
            return self.change(within, current, now);
        }
        let load = if settled { load } else { Load::Unknown };
        keep_since(&mut self.behind, matches!(load, Load::Behind { .. }), now);
        keep_since(&mut self.kept_up, load == Load::KeptUp, now);
        let lasts =
            |since: Option<Instant>, time| since.is_some_and(|since| now.duration_since(since) >= time);
        let rested = self
            .changed
            .is_none_or(|(changed, _)| now.duration_since(changed) >= PAUSE);
        match load {
            Load::Behind { time, partitions } if rested && lasts(self.behind, PATIENCE) => {
                let more = wanted(current, time).min(scaling.max).min(partitions);
                self.change(more.max(current), current, now)
            }
            Load::KeptUp if rested && current > scaling.min && lasts(self.kept_up, self.stable) => {
                self.change(current - 1, current, now)
            }
            _ => current,
        }
    }

    /// Whether another look soon may change the decision.
    #[must_use]
    pub fn is_suspicious(&self) -> bool {
        self.behind.is_some()
    }

    fn change(&mut self, to: i32, from: i32, now: Instant) -> i32 {
        if to == from {
            return to;
        }
        let fewer = to < from;
        let lately = |then: Instant, time| now.duration_since(then) < time;
        if !fewer
            && self
                .changed
                .is_some_and(|(changed, fewer)| fewer && lately(changed, LONGEST_STABLE))
        {
            self.stable = (self.stable * 2).min(LONGEST_STABLE);
            self.taken_back = Some(now);
        } else if self.taken_back.is_some_and(|then| !lately(then, FORGET)) {
            self.stable = STABLE;
            self.taken_back = None;
        }
        self.changed = Some((now, fewer));
        self.behind = None;
        self.kept_up = None;
        to
    }
}

/// As many as would do it in [`BEHIND`], were there nothing new; at least one more, and at most twice as many.
fn wanted(current: i32, time: Duration) -> i32 {
    let factor = (time.as_secs_f64() / BEHIND.as_secs_f64()).min(2.0);
    #[allow(clippy::cast_possible_truncation, reason = "at most twice a small number")]
    let wanted = (f64::from(current) * factor).ceil() as i32;
    wanted.max(current + 1)
}

fn keep_since(since: &mut Option<Instant>, holds: bool, now: Instant) {
    *since = if holds { since.or(Some(now)) } else { None };
}
