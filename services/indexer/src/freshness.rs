//! How fresh the search was in the last minutes: quantiles over a sliding window, in constant memory.

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

/// The window moves in steps of this length.
const STEP: Duration = Duration::from_secs(10);
const STEPS: usize = 30;
/// Each bucket's bound is this much above the one before, so a quantile is at most 5 % too high.
const GROWTH: f64 = 1.05;
const FIRST_BOUND: f64 = 0.001;
/// The last bound is beyond an hour.
const BUCKETS: usize = 320;

/// Counts of ages, by step and bucket.
#[derive(Debug, Default)]
pub(crate) struct RecentFreshness {
    steps: VecDeque<Step>,
}

#[derive(Debug)]
struct Step {
    start: Instant,
    counts: Box<[u32]>,
}

/// Quantiles in seconds; absent where no order became searchable within the window.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    pub(crate) window_seconds: u64,
    pub(crate) orders: u64,
    pub(crate) p50_seconds: Option<f64>,
    pub(crate) p99_seconds: Option<f64>,
}

impl RecentFreshness {
    pub(crate) fn record(&mut self, ages: impl Iterator<Item = Duration>) {
        let now = Instant::now();
        if self.steps.back().is_none_or(|step| now - step.start >= STEP) {
            self.forget_old(now);
            self.steps.push_back(Step {
                start: now,
                counts: vec![0; BUCKETS].into(),
            });
        }
        if let Some(step) = self.steps.back_mut() {
            for age in ages {
                step.counts[bucket(age)] += 1;
            }
        }
    }

    pub(crate) fn summary(&mut self) -> Summary {
        self.forget_old(Instant::now());
        let mut totals = [0_u64; BUCKETS];
        for step in &self.steps {
            for (total, count) in totals.iter_mut().zip(&step.counts) {
                *total += u64::from(*count);
            }
        }
        let orders = totals.iter().sum();
        Summary {
            window_seconds: STEP.as_secs() * u64::try_from(STEPS).unwrap_or(u64::MAX),
            orders,
            p50_seconds: quantile(&totals, orders, 50),
            p99_seconds: quantile(&totals, orders, 99),
        }
    }

    fn forget_old(&mut self, now: Instant) {
        let window = STEP * u32::try_from(STEPS).unwrap_or(u32::MAX);
        while self.steps.front().is_some_and(|step| now - step.start >= window) {
            self.steps.pop_front();
        }
    }
}

/// The index of the first bucket whose bound is not below the age.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between 0 and BUCKETS - 1
fn bucket(age: Duration) -> usize {
    let steps = (age.as_secs_f64() / FIRST_BOUND).ln() / GROWTH.ln();
    let last = u32::try_from(BUCKETS - 1).map_or(0.0, f64::from);
    steps.ceil().clamp(0.0, last) as usize
}

fn quantile(totals: &[u64; BUCKETS], count: u64, percent: u64) -> Option<f64> {
    let rank = (count * percent).div_ceil(100).max(1);
    let mut seen = 0;
    let found = totals.iter().position(|total| {
        seen += total;
        seen >= rank
    })?;
    let bound = FIRST_BOUND * GROWTH.powi(i32::try_from(found).ok()?);
    Some((bound * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn quantiles_are_about_the_last_minutes_only() {
        let mut recent = RecentFreshness::default();
        assert_eq!(recent.summary().p50_seconds, None);
        recent.record([Duration::from_mins(50)].into_iter());
        tokio::time::advance(STEP * 31).await;
        recent.record((1..=100).map(Duration::from_millis));
        let summary = recent.summary();
        assert_eq!(summary.orders, 100);
        let (p50, p99) = (summary.p50_seconds.unwrap(), summary.p99_seconds.unwrap());
        assert!((0.050..0.0535).contains(&p50), "{p50}");
        assert!((0.099..0.105).contains(&p99), "{p99}");
    }

    #[test]
    fn every_age_has_a_bucket() {
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::from_millis(1)), 0);
        assert!(bucket(Duration::from_hours(1)) < BUCKETS - 1);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }
}
