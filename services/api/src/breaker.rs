//! Leaves a store alone that does not answer, so that it costs one request per pause its time and the others nothing.
//!
//! Closed: calls pass. Open: none passes until the pause is over. Half-open: one passes, and what becomes of it decides:
//! closed again, or open for a pause twice as long.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use prometheus_client::metrics::gauge::Gauge;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

const CLOSED: i64 = 0;
const HALF_OPEN: i64 = 1;
const OPEN: i64 = 2;

/// What a call was let through as; its result is reported with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// One of any number.
    Free,
    /// The one on which all depends.
    Trial,
}

/// See the module. Lock-free; late results of calls from before it opened do no harm.
#[derive(Debug)]
pub struct Breaker {
    created: Instant,
    /// Milliseconds since `created` at which the pause ends; 0 when closed.
    open_until: AtomicU64,
    /// Trials that have failed since it was closed.
    failed_trials: AtomicU32,
    /// 0 closed, 1 half-open, 2 open.
    state: Gauge,
}

impl Breaker {
    /// Closed; shows its state in `state`: 0 closed, 1 half-open, 2 open.
    pub fn new(state: Gauge) -> Self {
        Self {
            created: Instant::now(),
            open_until: AtomicU64::new(0),
            failed_trials: AtomicU32::new(0),
            state,
        }
    }

    /// Whether a call may be made. A trial that is never reported, because its caller went away, has failed when the pause
    /// is over again.
    pub fn admit(&self) -> Option<Pass> {
        match self.open_until.load(Ordering::Acquire) {
            0 => Some(Pass::Free),
            until => self.try_again(until, self.now()),
        }
    }

    fn try_again(&self, until: u64, now: u64) -> Option<Pass> {
        let next = now + self.pause();
        let tries = now >= until
            && self
                .open_until
                .compare_exchange(until, next, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        tries.then(|| {
            self.state.set(HALF_OPEN);
            Pass::Trial
        })
    }

    /// The store has answered in time.
    pub fn succeeded(&self) {
        if self.open_until.load(Ordering::Relaxed) != 0 {
            self.failed_trials.store(0, Ordering::Relaxed);
            self.open_until.store(0, Ordering::Release);
            self.state.set(CLOSED);
        }
    }

    /// The store has not answered in time. Tells whether this opened the breaker.
    pub fn failed(&self, pass: Pass) -> bool {
        self.failed_at(pass, self.now())
    }

    fn failed_at(&self, pass: Pass, now: u64) -> bool {
        match pass {
            Pass::Trial => {
                self.failed_trials.fetch_add(1, Ordering::Relaxed);
                self.open_until.store(now + self.pause(), Ordering::Release);
                self.state.set(OPEN);
                false
            }
            // Many calls fail together; the first one opens it.
            Pass::Free => {
                let until = now + self.pause();
                let opens = self
                    .open_until
                    .compare_exchange(0, until, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok();
                if opens {
                    self.state.set(OPEN);
                }
                opens
            }
        }
    }

    fn pause(&self) -> u64 {
        // Beyond 2^8 it is the longest anyway.
        let doubled = FIRST_PAUSE * (1 << self.failed_trials.load(Ordering::Relaxed).min(8));
        milliseconds(doubled.min(LONGEST_PAUSE))
    }

    fn now(&self) -> u64 {
        milliseconds(self.created.elapsed())
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    /// The pause after each failed trial, in milliseconds.
    fn next_trial(breaker: &Breaker, from: u64) -> u64 {
        let until = breaker.open_until.load(Ordering::Relaxed);
        assert_eq!(breaker.try_again(until, until - 1), None, "the pause is not over");
        assert_eq!(breaker.try_again(until, until), Some(Pass::Trial));
        assert_eq!(
            breaker.try_again(until, until),
            None,
            "the first one's result is awaited"
        );
        until - from
    }

    #[test]
    fn each_failed_trial_doubles_the_pause_until_one_succeeds() {
        let state = Gauge::default();
        let breaker = Breaker::new(state.clone());
        for _ in 0..2 {
            assert_eq!(
                (breaker.admit(), breaker.admit(), state.get()),
                (Some(Pass::Free), Some(Pass::Free), CLOSED)
            );
            assert!(breaker.failed_at(Pass::Free, 1000));
            assert!(!breaker.failed_at(Pass::Free, 1400), "it was open already");
            assert_eq!(state.get(), OPEN);
            let mut now = 1000;
            for pause in [500, 1000, 2000, 4000, 5000, 5000] {
                assert_eq!(next_trial(&breaker, now), pause);
                assert_eq!(state.get(), HALF_OPEN);
                now += pause;
                assert!(!breaker.failed_at(Pass::Trial, now));
            }
            breaker.succeeded();
        }
    }

    #[test]
    fn a_trial_that_is_never_reported_is_followed_by_another() {
        let breaker = Breaker::new(Gauge::default());
        breaker.failed_at(Pass::Free, 0);
        assert_eq!(next_trial(&breaker, 0), 500);
        assert_eq!(next_trial(&breaker, 500), 500);
    }
}
