//! Search answers in Redis, and whose turn it is to ask Elasticsearch.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::Bytes;
use commerce_core::search_cache::{GENERATION_TTL, generation_key, new_generation};
use redis::{ExistenceCheck, Pipeline, SetExpiry, SetOptions, pipe};
use sha2::{Digest as _, Sha256};
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    Page, Query,
    entry::{Entry, Lifetime},
};
use crate::cache::Cache;

/// Ends a lock, but only one's own.
const UNLOCK: &str = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end";
/// Who waits for another replica looks again after this long, then after twice as long, …
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// The Redis keys of a query.
#[derive(Debug)]
pub struct Keys {
    generation: String,
    answer: String,
}

impl Keys {
    /// Only who knows this generation looks for this lock, so that nobody waits for an answer that is out of date.
    fn lock(&self, generation: &str) -> String {
        format!("{}:lock:{generation}", self.answer)
    }
}

/// What Redis has for a query.
#[derive(Debug)]
pub struct Found {
    /// The current one; an answer is to be stored with it.
    pub generation: String,
    /// An answer of any generation.
    pub entry: Option<Entry>,
}

/// A value and the milliseconds it has left.
type Value = (Option<Vec<u8>>, i64);

#[derive(Debug)]
pub struct Stored {
    cache: Arc<Cache>,
    /// What this replica puts into its locks. It asks the same thing once at a time, so a lock with this is its own, though
    /// the request that took it may have been given up.
    replica: String,
}

impl Stored {
    pub fn new(cache: Arc<Cache>) -> Self {
        Self {
            cache,
            replica: Uuid::new_v4().simple().to_string(),
        }
    }

    pub fn keys(&self, query: &Query) -> Keys {
        let prefix = self.cache.prefix();
        let mut answer = format!("{prefix}search:answer:");
        // Queries are made of numbers and strings, which always serialize.
        for byte in Sha256::digest(serde_json::to_vec(query).unwrap_or_default()) {
            let _ = write!(answer, "{byte:02x}");
        }
        Keys {
            generation: generation_key(prefix, query.user_id.as_deref()),
            answer,
        }
    }

    /// The current generation, which is a new one where there was none; `None` where Redis is away.
    pub async fn generation(&self, keys: &Keys) -> Option<String> {
        let (found,): (Option<String>,) = self.cache.ask(pipe().get(&keys.generation)).await?;
        match found {
            Some(generation) => Some(generation),
            None => self.begin_generation(keys).await,
        }
    }

    /// Generation and answer; `None` where Redis is away.
    pub async fn look_up(&self, keys: &Keys) -> Option<Found> {
        let at = Instant::now();
        let ((generation, value), left): ((Option<String>, Option<Vec<u8>>), i64) = self
            .cache
            .ask(pipe().mget(&[&keys.generation, &keys.answer]).pttl(&keys.answer))
            .await?;
        let generation = match generation {
            Some(generation) => generation,
            None => self.begin_generation(keys).await?,
        };
        let entry = decode((value, left), at);
        if let Some(entry) = &entry {
            entry.confirm(&generation, at);
        }
        Some(Found { generation, entry })
    }

    /// Nothing has been cached or invalidated for so long that there is no generation; whoever is first makes one.
    async fn begin_generation(&self, keys: &Keys) -> Option<String> {
        let options = SetOptions::default()
            .conditional_set(ExistenceCheck::NX)
            .with_expiration(SetExpiry::EX(GENERATION_TTL.as_secs()));
        let (generation,): (Option<String>,) = self
            .cache
            .ask(
                pipe()
                    .set_options(&keys.generation, new_generation(), options)
                    .ignore()
                    .get(&keys.generation),
            )
            .await?;
        generation
    }

    /// Waits, up to `patience`, while another replica asks Elasticsearch the same. Gives its answer, or `None` where it is
    /// for the caller to ask: because the lock is its own now, because waiting did not help, or because Redis is away. The
    /// lock is held until [`Self::store`] or [`Self::release`], or ends by itself after `patience`, so that a replica that
    /// dies holding it costs others no more than that.
    pub async fn wait_turn(&self, keys: &Keys, generation: &str, patience: Duration) -> Option<Entry> {
        let lock = keys.lock(generation);
        let options = SetOptions::default()
            .conditional_set(ExistenceCheck::NX)
            .with_expiration(SetExpiry::PX(milliseconds(patience)));
        let (started, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            let at = Instant::now();
            // An answer is stored before its lock is released: who gets the lock afterwards sees it.
            let ((value, holder), left): ((Option<Vec<u8>>, Option<String>), i64) = self
                .cache
                .ask(
                    pipe()
                        .set_options(&lock, &self.replica, options.clone())
                        .ignore()
                        .mget(&[&keys.answer, &lock])
                        .pttl(&keys.answer),
                )
                .await?;
            let own = holder.as_ref() == Some(&self.replica);
            // The generation was not looked at again, so the answer is known to be current when it was asked for, and no later.
            let answer = decode((value, left), at);
            if let Some(entry) = answer.filter(|entry| entry.is_fresh() && entry.is_of(generation)) {
                if own {
                    self.release(keys, generation).await;
                }
                return Some(entry);
            }
            let rest = patience.saturating_sub(started.elapsed());
            if own || rest.is_zero() {
                return None;
            }
            sleep(pause.min(rest)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Keeps an answer for as long as it lives, and ends the lock. Does nothing for one without a generation.
    pub async fn store(&self, keys: &Keys, entry: &Entry) {
        let Some(generation) = &entry.generation else {
            return;
        };
        let left = milliseconds(entry.lifetime.alive.saturating_sub(entry.age()));
        let mut writes = pipe();
        writes
            .pset_ex(&keys.answer, encode(generation, entry), left)
            .ignore();
        self.unlock(&mut writes, keys, generation);
        // Redis being away is no news to the caller.
        let _: Option<()> = self.cache.ask(&writes).await;
    }

    /// Ends the lock: there is no answer.
    pub async fn release(&self, keys: &Keys, generation: &str) {
        let mut writes = pipe();
        self.unlock(&mut writes, keys, generation);
        let _: Option<()> = self.cache.ask(&writes).await;
    }

    fn unlock(&self, writes: &mut Pipeline, keys: &Keys, generation: &str) {
        let lock = keys.lock(generation);
        writes
            .cmd("EVAL")
            .arg(UNLOCK)
            .arg(1)
            .arg(lock)
            .arg(&self.replica)
            .ignore();
    }
}

/// Redis takes no expiry of 0.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Three lines: generation and milliseconds of life and of freshness; next cursor (empty where there is none); body.
fn encode(generation: &str, entry: &Entry) -> Vec<u8> {
    let Lifetime { alive, fresh } = entry.lifetime;
    let head = format!("{generation} {} {}", milliseconds(alive), milliseconds(fresh));
    let next = entry.page.next.as_deref().unwrap_or_default();
    [head.as_bytes(), next.as_bytes(), &entry.page.body].join(&b'\n')
}

/// The answer that had so much of its life left at `at` or later. The clock is that of Redis, so those of the replicas need
/// not agree.
fn decode((value, left): Value, at: Instant) -> Option<Entry> {
    let value = Bytes::from(value?);
    let mut lines = value.splitn(3, |byte| *byte == b'\n');
    let mut line = || lines.next();
    let (head, next, body) = (line()?, line()?, line()?);
    let mut head = std::str::from_utf8(head).ok()?.splitn(3, ' ');
    let generation = head.next()?.to_owned();
    let mut duration = || head.next()?.parse().ok().map(Duration::from_millis);
    let lifetime = Lifetime {
        alive: duration()?,
        fresh: duration()?,
    };
    let left = Duration::from_millis(u64::try_from(left).ok()?);
    let asked = at.checked_sub(lifetime.alive.saturating_sub(left))?;
    let next = std::str::from_utf8(next).ok()?;
    let page = Page {
        body: value.slice_ref(body),
        next: (!next.is_empty()).then(|| next.to_owned()),
    };
    Some(Entry::new(page, lifetime, Some(generation), asked))
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn an_answer_comes_back_with_its_age() {
        let lifetime = Lifetime {
            alive: Duration::from_mins(1),
            fresh: Duration::from_secs(40),
        };
        for next in [None, Some("cursor".to_owned())] {
            let page = Page {
                body: Bytes::from_static(b"[\n1]"),
                next,
            };
            let entry = Entry::new(page.clone(), lifetime, Some("one".to_owned()), Instant::now());
            let value = encode("one", &entry);
            let found = decode((Some(value), 15_000), Instant::now()).unwrap();
            assert_eq!((&found.page, found.lifetime), (&page, lifetime));
            assert_eq!(found.generation.as_deref(), Some("one"));
            assert!(found.age() >= Duration::from_secs(45) && found.is_alive() && !found.is_fresh());
        }
    }

    #[test]
    fn what_is_not_an_answer_is_none() {
        let good = b"one 60000 40000\n\n[]".as_slice();
        assert!(decode((Some(good.to_vec()), 1), Instant::now()).is_some());
        // Gone between the two questions.
        assert!(decode((Some(good.to_vec()), -2), Instant::now()).is_none());
        for value in [
            "",
            "one",
            "one\n\n[]",
            "one 60000\n\n[]",
            "one 6e4 4e4\n\n[]",
            "one 60000 40000\n[]",
        ] {
            assert!(
                decode((Some(value.into()), 1), Instant::now()).is_none(),
                "{value:?}"
            );
        }
    }
}
