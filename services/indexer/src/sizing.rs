//! How many documents a bulk request has: more while that costs Elasticsearch no more time for each, and half as many when it
//! does not take all of them at once (slow start, then additive increase and multiplicative decrease, as TCP's congestion control
//! has them, RFC 5681; that the time for a document stays flat stands for a round trip without queues).
//!
//! Requests that are under way together wait for each other: a request's time is divided by their number (Little's law: so
//! many under way are so many times the rate times the time of one). A document that takes longer makes no request smaller:
//! that is mostly other work on Elasticsearch's machine, and small requests would cost it more.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The first requests.
const FIRST: usize = 1_000;
/// Smaller ones cost Elasticsearch more than they spare it.
pub(crate) const SMALLEST: usize = 100;
const STEP: usize = 100;
/// A single request's time is mostly chance: so much of it goes into the average.
const WEIGHT: f64 = 0.2;
/// A document may take this much longer on average than it did at best of late.
const FLAT: f64 = 1.25;
/// A request that takes longer is too large, whatever a document takes: all of it waits, and all of it may be refused.
const LONGEST: Duration = Duration::from_secs(1);
/// By so much the best average is forgotten with each request: what was possible once may be no more.
const FORGOTTEN: f64 = 0.02;

/// Shared by those who cut requests and those who send them.
#[derive(Debug)]
pub(crate) struct Sizing {
    largest: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    documents: usize,
    /// No request was too large so far.
    slow_start: bool,
    under_way: usize,
    /// Seconds a document: on average, and the best average of late.
    times: Option<(f64, f64)>,
}

impl Sizing {
    /// Never more than `largest`.
    pub(crate) fn new(largest: usize) -> Self {
        Self {
            largest,
            state: Mutex::new(State {
                documents: FIRST.min(largest),
                slow_start: true,
                under_way: 0,
                times: None,
            }),
        }
    }

    /// How many documents the next request may have.
    pub(crate) fn documents(&self) -> usize {
        self.lock().documents
    }

    /// Requests are sent and answered until [`Self::end`].
    pub(crate) fn begin(&self) {
        self.lock().under_way += 1;
    }

    pub(crate) fn end(&self) {
        self.lock().under_way -= 1;
    }

    /// A request was answered for each of its documents.
    pub(crate) fn answered(&self, documents: usize, took: Duration) {
        let mut state = self.lock();
        // A smaller one, cut because its time was up, tells nothing about this size.
        if documents * 10 < state.documents * 9 {
            return;
        }
        let Ok(count) = u32::try_from(documents * state.under_way.max(1)) else {
            return;
        };
        let time = took.as_secs_f64() / f64::from(count.max(1));
        let (average, best) = state.times.unwrap_or((time, time));
        let average = average + WEIGHT * (time - average);
        let best = (best + FORGOTTEN * (average - best)).min(average);
        state.times = Some((average, best));
        if took > LONGEST {
            state.documents = (state.documents - state.documents / 10).max(SMALLEST.min(self.largest));
        } else if average <= best * FLAT {
            let step = if state.slow_start {
                state.documents / 2
            } else {
                STEP
            };
            state.documents = (state.documents + step).min(self.largest);
            return;
        }
        state.slow_start = false;
    }

    /// All of a request of so many documents, or a part, has to be sent again. Requests that were on their way together are
    /// refused together, and that is one reason to make them smaller, not several.
    pub(crate) fn refused(&self, documents: usize) {
        let mut state = self.lock();
        let half = (documents / 2).max(SMALLEST.min(self.largest));
        state.documents = state.documents.min(half);
        state.slow_start = false;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Elasticsearch as a line: so long for a request, so long for each document.
    fn took(documents: usize) -> Duration {
        Duration::from_micros(2_000 + 40 * documents as u64)
    }

    #[test]
    fn requests_grow_while_a_document_takes_no_longer() {
        let sizing = Sizing::new(5_000);
        for _ in 0..3 {
            sizing.answered(sizing.documents(), took(sizing.documents()));
        }
        let before = sizing.documents();
        assert_eq!(before, 3_375, "half as many more each time");
        for _ in 0..5 {
            sizing.answered(sizing.documents(), took(sizing.documents()) * 4);
        }
        assert_eq!(sizing.documents(), before, "slower");
        for _ in 0..20 {
            sizing.answered(sizing.documents(), took(sizing.documents()));
        }
        assert!((before + STEP..5_000).contains(&sizing.documents()), "by steps");
        for _ in 0..500 {
            sizing.answered(sizing.documents(), took(sizing.documents()));
        }
        assert_eq!(sizing.documents(), 5_000, "as large as it was allowed");
    }

    #[test]
    fn requests_that_wait_for_each_other_are_no_slower() {
        let sizing = Sizing::new(2_000);
        sizing.answered(sizing.documents(), took(sizing.documents()));
        for _ in 0..4 {
            sizing.begin();
        }
        for _ in 0..10 {
            sizing.answered(sizing.documents(), took(sizing.documents()) * 4);
        }
        assert_eq!(sizing.documents(), 2_000);
    }

    #[test]
    fn a_request_takes_about_a_second_at_most() {
        let sizing = Sizing::new(100_000);
        for _ in 0..2_000 {
            sizing.answered(sizing.documents(), took(sizing.documents()));
        }
        assert!(took(sizing.documents()) <= LONGEST * 11 / 10);
    }

    #[test]
    fn refusals_halve_requests_down_to_a_bound_and_they_recover() {
        let sizing = Sizing::new(2_000);
        for _ in 0..4 {
            sizing.refused(1_000);
        }
        assert_eq!(sizing.documents(), 500, "they were on their way together");
        for _ in 0..10 {
            sizing.refused(sizing.documents());
        }
        assert_eq!(sizing.documents(), SMALLEST);
        for _ in 0..100 {
            sizing.answered(sizing.documents(), took(sizing.documents()));
        }
        assert_eq!(sizing.documents(), 2_000);
        let small = Sizing::new(7);
        small.refused(7);
        assert_eq!(small.documents(), 7);
    }

    #[test]
    fn a_request_that_was_not_full_says_nothing() {
        let sizing = Sizing::new(2_000);
        sizing.answered(5, Duration::from_secs(1));
        sizing.answered(5, Duration::from_millis(1));
        assert_eq!(sizing.documents(), 1_000);
    }

    #[test]
    fn what_was_possible_once_is_forgotten() {
        let sizing = Sizing::new(2_000);
        sizing.answered(1_000, Duration::from_millis(10));
        for _ in 0..200 {
            sizing.answered(sizing.documents(), took(sizing.documents()) * 3);
        }
        assert_eq!(sizing.documents(), 2_000, "slower than once, and flat");
    }
}
