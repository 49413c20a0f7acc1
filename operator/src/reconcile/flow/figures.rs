//! The figures in the status: what the services counted, rounded, and left as they are until they have changed by a quarter.
//! So a busy pipeline's status is written a few times while a backlog grows or shrinks, and an idle one's never.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    super::services::{RelayState, Seen},
    progress::Progress,
    seconds,
};
use crate::crd::{CommercePipelineStatus, FreshnessStatus, OutboxStatus};

/// What waits for less is on its way, and no backlog.
pub const IN_TRANSIT: Duration = Duration::from_secs(2);
/// So many events that move are no lag.
const FEW: u64 = 100;
/// A time that has changed by less is the same, in milliseconds.
const SAME_MILLIS: u64 = 50;

/// The figures of the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub outbox: Option<OutboxStatus>,
    pub consumer_lag: Option<i64>,
    pub freshness: Option<FreshnessStatus>,
}

impl Figures {
    /// Those that were written last.
    #[must_use]
    pub fn of(status: &CommercePipelineStatus) -> Self {
        Self {
            outbox: status.outbox.clone(),
            consumer_lag: status.consumer_lag,
            freshness: status.freshness.clone(),
        }
    }

    /// The next ones. What nobody tells is absent; freshness stays as it was while there are no orders.
    pub(super) fn next(&self, seen: &Seen, progress: &Progress, now: Instant) -> Self {
        Self {
            outbox: self.outbox(seen),
            consumer_lag: self.lag(seen, progress, now),
            freshness: self.freshness(seen).or_else(|| self.freshness.clone()),
        }
    }

    fn outbox(&self, seen: &Seen) -> Option<OutboxStatus> {
        let mut answers = seen.relays.iter().filter_map(|answer| answer.said.as_ref().ok());
        let active = answers.find(|status| status.state == RelayState::Active)?;
        let backlog = active.backlog?;
        let oldest = seconds(active.oldest_unpublished_seconds.unwrap_or_default());
        let failed = count(active.parked.unwrap_or_default());
        if oldest < IN_TRANSIT {
            return Some(OutboxStatus {
                new: 0,
                failed,
                oldest_unpublished: "0s".to_owned(),
            });
        }
        let before = self.outbox.as_ref();
        let new = before.and_then(|outbox| u64::try_from(outbox.new).ok());
        let age = before.map(|outbox| outbox.oldest_unpublished.as_str());
        Some(OutboxStatus {
            new: count(settled(new, backlog, 0)),
            failed,
            oldest_unpublished: settled_time(age, oldest),
        })
    }

    fn lag(&self, seen: &Seen, progress: &Progress, now: Instant) -> Option<i64> {
        let mut lag = 0;
        for answer in &seen.indexers {
            let partitions = &answer.said.as_ref().ok()?.partitions;
            lag += partitions.iter().map(|partition| partition.lag).sum::<u64>();
        }
        let read = seen.indexers.iter().any(|answer| {
            answer
                .said
                .as_ref()
                .is_ok_and(|status| !status.partitions.is_empty())
        });
        if !read {
            return None;
        }
        let moves = progress.standing_still(now).is_empty();
        if moves && (lag < FEW || progress.time_for(lag).is_some_and(|time| time < IN_TRANSIT)) {
            return Some(0);
        }
        let before = self.consumer_lag.and_then(|lag| u64::try_from(lag).ok());
        Some(count(settled(before, lag, 0)))
    }

    fn freshness(&self, seen: &Seen) -> Option<FreshnessStatus> {
        let answers = || {
            seen.indexers
                .iter()
                .filter_map(|answer| answer.said.as_ref().ok())
        };
        let slowest = |quantile: fn(&super::super::services::Freshness) -> Option<f64>| {
            answers()
                .filter_map(|status| quantile(&status.freshness))
                .max_by(f64::total_cmp)
                .map(seconds)
        };
        let (p50, p99) = (
            slowest(|fresh| fresh.p50_seconds)?,
            slowest(|fresh| fresh.p99_seconds)?,
        );
        let before = self.freshness.as_ref();
        Some(FreshnessStatus {
            p50: settled_time(before.map(|fresh| fresh.p50.as_str()), p50),
            p99: settled_time(before.map(|fresh| fresh.p99.as_str()), p99),
        })
    }
}

/// As it is written.
#[must_use]
pub fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What was written, until the number has changed by a quarter of it and by more than `same`; zero is told at once.
#[must_use]
pub fn settled(before: Option<u64>, now: u64, same: u64) -> u64 {
    match before {
        Some(before) if before > 0 && now > 0 && now.abs_diff(before) <= (before / 4).max(same) => before,
        _ => two_digits(now),
    }
}

fn settled_time(before: Option<&str>, now: Duration) -> String {
    let before = before.and_then(parsed).map(millis);
    text(Duration::from_millis(settled(before, millis(now), SAME_MILLIS)))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn two_digits(number: u64) -> u64 {
    let mut unit = 1;
    while number / unit >= 100 {
        unit *= 10;
    }
    (number + unit / 2) / unit * unit
}

/// Two digits or a little more, in one unit: `120ms`, `1.3s`, `42s`, `15m`, `3h`.
pub(super) fn text(time: Duration) -> String {
    let millis = millis(time);
    match millis {
        0 => "0s".to_owned(),
        1..1000 => format!("{millis}ms"),
        1000..10_000 if millis % 1000 >= 100 => format!("{}.{}s", millis / 1000, millis % 1000 / 100),
        1000..120_000 => format!("{}s", millis / 1000),
        120_000..7_200_000 => format!("{}m", millis / 60_000),
        _ => format!("{}h", millis / 3_600_000),
    }
}

fn parsed(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = text[..unit].parse().ok()?;
    let seconds = match &text[unit..] {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_two_digits() {
        for (number, rounded) in [
            (0, 0),
            (7, 7),
            (99, 99),
            (123, 120),
            (996, 1000),
            (123_456, 120_000),
        ] {
            assert_eq!(two_digits(number), rounded, "{number}");
        }
    }

    #[test]
    fn what_changes_by_less_than_a_quarter_stays_and_zero_is_told() {
        for (before, now, written) in [
            (None, 1234, 1200),
            (Some(1200), 1500, 1200),
            (Some(1200), 900, 1200),
            (Some(1200), 1501, 1500),
            (Some(1200), 0, 0),
            (Some(0), 3, 3),
        ] {
            assert_eq!(settled(before, now, 0), written, "{before:?} {now}");
        }
        assert_eq!(
            settled(Some(120), 165, 50),
            120,
            "a small change is none, however small the number"
        );
    }

    #[test]
    fn times_are_read_back_as_they_were_written() {
        for (millis, written) in [
            (0, "0s"),
            (120, "120ms"),
            (1300, "1.3s"),
            (2000, "2s"),
            (42_000, "42s"),
            (900_000, "15m"),
            (10_800_000, "3h"),
        ] {
            let time = Duration::from_millis(millis);
            assert_eq!(text(time), written);
            assert_eq!(parsed(written), Some(time), "{written}");
        }
        assert_eq!(settled_time(Some("42s"), Duration::from_secs(50)), "42s");
        assert_eq!(settled_time(Some("42s"), Duration::from_mins(1)), "60s");
        assert_eq!(settled_time(Some("nonsense"), Duration::from_mins(1)), "60s");
    }
}
