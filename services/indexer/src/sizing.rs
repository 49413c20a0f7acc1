//! How many documents a bulk request has: more while that costs Elasticsearch no more time for each, fewer when it does, and
//! half as many when Elasticsearch does not take all of them at once (additive increase and multiplicative decrease, as in TCP's
//! congestion avoidance, RFC 5681; that the time for a document stays flat stands for a round trip without queues).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The first requests.
const FIRST: usize = 1_000;
/// Smaller ones cost Elasticsearch more than they spare it.
pub(crate) const SMALLEST: usize = 100;
const STEP: usize = 100;
/// A document may take this much longer than in the best requests of late.
const FLAT: f64 = 1.25;
/// By so much the best is forgotten with each request: what was possible once may be no more.
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
    /// Seconds a document, in the best requests of late.
    best: Option<f64>,
}

impl Sizing {
    /// Never more than `largest`.
    pub(crate) fn new(largest: usize) -> Self {
        Self {
            largest,
            state: Mutex::new(State {
                documents: FIRST.min(largest),
                best: None,
            }),
        }
    }

    /// How many documents the next request may have.
    pub(crate) fn documents(&self) -> usize {
        self.lock().documents
    }

    /// A request was answered for each of its documents.
    pub(crate) fn answered(&self, documents: usize, took: Duration) {
        let mut state = self.lock();
        // A smaller one, cut because its time was up, tells nothing about this size.
        if documents * 10 < state.documents * 9 {
            return;
        }
        let Ok(count) = u32::try_from(documents) else {
            return;
        };
        let time = took.as_secs_f64() / f64::from(count.max(1));
        let best = state
            .best
            .map_or(time, |best| best + FORGOTTEN * (time - best).max(0.0));
        state.best = Some(best.min(time));
        state.documents = if time <= best * FLAT {
            (state.documents + STEP).min(self.largest)
        } else {
            (state.documents - state.documents / 10).max(SMALLEST.min(self.largest))
        };
    }

    /// All of a request of so many documents, or a part, has to be sent again. Requests that were on their way together are
    /// refused together, and that is one reason to make them smaller, not several.
    pub(crate) fn refused(&self, documents: usize) {
        let mut state = self.lock();
        let half = (documents / 2).max(SMALLEST.min(self.largest));
        state.documents = state.documents.min(half);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Elasticsearch as a line: so long for a request, so long for each document, and longer for each beyond `knee`.
    fn took(documents: usize, knee: usize) -> Duration {
        let micros = 2_000 + 40 * documents + 200 * documents.saturating_sub(knee);
        Duration::from_micros(micros as u64)
    }

    #[test]
    fn requests_grow_while_a_document_takes_no_longer_and_not_beyond() {
        let sizing = Sizing::new(20_000);
        for _ in 0..500 {
            sizing.answered(sizing.documents(), took(sizing.documents(), 3_000));
        }
        assert!(
            (2_500..4_000).contains(&sizing.documents()),
            "{}",
            sizing.documents()
        );

        let sizing = Sizing::new(2_000);
        for _ in 0..500 {
            sizing.answered(sizing.documents(), took(sizing.documents(), usize::MAX));
        }
        assert_eq!(sizing.documents(), 2_000, "as large as it was allowed");
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
            sizing.answered(sizing.documents(), took(sizing.documents(), usize::MAX));
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
            sizing.answered(sizing.documents(), took(sizing.documents(), usize::MAX) * 3);
        }
        assert_eq!(sizing.documents(), 2_000, "slower than once, and flat");
    }
}
