//! A kept answer, and what it is still good for.
//!
//! Time goes from when Elasticsearch was asked. An entry is *fresh* at first, and *alive* for the rest of its life if its
//! generation is still the current one: then it may be served while it is being replaced. One that is neither is good for
//! nothing but the case that Elasticsearch fails.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use rand::Rng as _;

use super::Page;

/// Part of the TTL for which an empty answer is kept: anybody can ask for any number of things that are not there.
const EMPTY_DIVISOR: u32 = 4;

/// How long an answer lives, and how much of this it is fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    pub alive: Duration,
    pub fresh: Duration,
}

impl Lifetime {
    /// Fresh for half of it or more, by chance, so that what was cached at once is not asked for again at once.
    pub fn draw(ttl: Duration, page: &Page) -> Self {
        let alive = if page.is_empty() { ttl / EMPTY_DIVISOR } else { ttl };
        let fresh = alive.mul_f64(rand::rng().random_range(0.5..=0.9));
        Self { alive, fresh }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Entry {
    pub page: Page,
    pub lifetime: Lifetime,
    /// The generation that was current before Elasticsearch was asked; `None` where Redis was away.
    pub generation: Option<String>,
    /// Before Elasticsearch was asked.
    asked: Instant,
    /// Microseconds after `asked` at which the answer was last known to be current.
    current_at: AtomicU64,
    /// Another generation has been seen. It is never looked back upon, even where Redis comes back with an old one.
    outdated: AtomicBool,
    refreshing: AtomicBool,
}

impl Entry {
    /// What Elasticsearch answered when asked at `asked`.
    pub fn new(page: Page, lifetime: Lifetime, generation: Option<String>, asked: Instant) -> Self {
        Self {
            page,
            lifetime,
            generation,
            asked,
            current_at: AtomicU64::new(0),
            outdated: AtomicBool::new(false),
            refreshing: AtomicBool::new(false),
        }
    }

    /// Time since Elasticsearch was asked.
    pub fn age(&self) -> Duration {
        self.asked.elapsed()
    }

    /// Whether `generation` is this entry's.
    pub fn is_of(&self, generation: &str) -> bool {
        self.generation.as_deref() == Some(generation)
    }

    /// `generation` was the current one at `at` or later. Tells whether the entry is, and always was, of it.
    pub fn confirm(&self, generation: &str, at: Instant) -> bool {
        if self.is_of(generation) {
            let at = microseconds(at.saturating_duration_since(self.asked));
            self.current_at.fetch_max(at, Ordering::Relaxed);
        } else {
            self.outdated.store(true, Ordering::Relaxed);
        }
        !self.is_outdated()
    }

    /// Whether the answer was current not longer than `bound` ago.
    pub fn is_trusted(&self, bound: Duration) -> bool {
        let current_at = Duration::from_micros(self.current_at.load(Ordering::Relaxed));
        !self.is_outdated() && self.age().saturating_sub(current_at) < bound
    }

    /// Whether it may be served if its generation is the current one.
    pub fn is_alive(&self) -> bool {
        !self.is_outdated() && self.age() < self.lifetime.alive
    }

    /// Whether it needs no replacement if its generation is the current one.
    pub fn is_fresh(&self) -> bool {
        !self.is_outdated() && self.age() < self.lifetime.fresh
    }

    /// Whether the caller is the one to replace it; nobody else is until [`Self::refresh_failed`].
    pub fn begin_refresh(&self) -> bool {
        !self.refreshing.swap(true, Ordering::Relaxed)
    }

    /// It was not replaced; somebody else may try.
    pub fn refresh_failed(&self) {
        self.refreshing.store(false, Ordering::Relaxed);
    }

    fn is_outdated(&self) -> bool {
        self.outdated.load(Ordering::Relaxed)
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use pretty_assertions::assert_eq;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn page(body: &'static str) -> Page {
        Page {
            body: Bytes::from_static(body.as_bytes()),
            next: None,
        }
    }

    fn entry(age: Duration) -> Entry {
        let lifetime = Lifetime {
            alive: 2 * HOUR,
            fresh: HOUR,
        };
        let asked = Instant::now().checked_sub(age).unwrap();
        Entry::new(page("[1]"), lifetime, Some("one".to_owned()), asked)
    }

    #[test]
    fn another_generation_ends_an_entry_for_good() {
        let entry = entry(Duration::ZERO);
        assert!(entry.confirm("one", Instant::now()) && entry.is_fresh() && entry.is_trusted(HOUR));
        assert!(!entry.confirm("two", Instant::now()));
        assert!(!entry.is_fresh() && !entry.is_alive() && !entry.is_trusted(HOUR));
        assert!(!entry.confirm("one", Instant::now()));
    }

    #[test]
    fn trust_goes_from_the_last_time_it_was_known_to_be_current_and_never_back() {
        let minute = Duration::from_mins(1);
        let entry = entry(10 * minute);
        assert!(!entry.is_trusted(5 * minute));
        let now = Instant::now();
        entry.confirm("one", now.checked_sub(4 * minute).unwrap());
        entry.confirm("one", now.checked_sub(6 * minute).unwrap());
        assert!(entry.is_trusted(5 * minute) && !entry.is_trusted(3 * minute));
        assert!(!entry.is_trusted(Duration::ZERO));
    }

    #[test]
    fn one_caller_replaces_what_is_no_longer_fresh() {
        let minute = Duration::from_mins(1);
        for (age, fresh, alive) in [
            (59 * minute, true, true),
            (61 * minute, false, true),
            (121 * minute, false, false),
        ] {
            let entry = entry(age);
            assert_eq!((entry.is_fresh(), entry.is_alive()), (fresh, alive), "{age:?}");
            assert!(entry.begin_refresh() && !entry.begin_refresh());
            entry.refresh_failed();
            assert!(entry.begin_refresh());
        }
    }

    #[test]
    fn empty_answers_live_shorter_and_all_are_fresh_for_half_their_life_or_more() {
        for (body, alive) in [("[1]", HOUR), ("[]", HOUR / 4)] {
            for _ in 0..100 {
                let lifetime = Lifetime::draw(HOUR, &page(body));
                assert_eq!(lifetime.alive, alive);
                assert!((alive / 2..alive).contains(&lifetime.fresh), "{lifetime:?}");
            }
        }
    }
}
