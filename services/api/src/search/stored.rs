//! Search answers in Redis.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use axum::body::Bytes;
use commerce_core::search_cache::{GENERATION_TTL, generation_key, new_generation};
use rand::Rng as _;
use redis::{ExistenceCheck, SetExpiry, SetOptions, pipe};
use sha2::{Digest as _, Sha256};

use super::{Page, Query};
use crate::cache::Cache;

/// What Redis has for a query.
pub enum Lookup {
    Hit(Page),
    /// Nothing that is still good; an answer is to be stored with this generation.
    Miss {
        generation: String,
    },
    Away,
}

/// A generation and a stored answer, as far as Redis has them.
type Found = (Option<String>, Option<Vec<u8>>);

#[derive(Debug)]
pub struct Stored {
    cache: Arc<Cache>,
    ttl: Duration,
}

impl Stored {
    pub fn new(cache: Arc<Cache>, ttl: Duration) -> Self {
        Self { cache, ttl }
    }

    pub async fn look_up(&self, query: &Query) -> Lookup {
        let generation_key = generation_key(self.cache.prefix(), query.user_id.as_deref());
        let keys = [generation_key.clone(), self.key(query)];
        let Some((found,)) = self.cache.ask::<(Found,)>(pipe().mget(&keys)).await else {
            return Lookup::Away;
        };
        match found {
            (Some(generation), value) => match value.and_then(|value| decode(value, &generation)) {
                Some(page) => Lookup::Hit(page),
                None => Lookup::Miss { generation },
            },
            (None, _) => self.begin_generation(&generation_key).await,
        }
    }

    /// Nothing has been cached or invalidated for so long that there is no generation; whoever is first makes one.
    async fn begin_generation(&self, key: &str) -> Lookup {
        let options = SetOptions::default()
            .conditional_set(ExistenceCheck::NX)
            .with_expiration(SetExpiry::EX(GENERATION_TTL.as_secs()));
        let answer: Option<(Option<String>,)> = self
            .cache
            .ask(
                pipe()
                    .set_options(key, new_generation(), options)
                    .ignore()
                    .get(key),
            )
            .await;
        match answer {
            Some((Some(generation),)) => Lookup::Miss { generation },
            _ => Lookup::Away,
        }
    }

    /// Keeps a page for half the TTL to all of it, so that what was cached at once does not expire at once.
    pub async fn store(&self, query: &Query, generation: &str, page: &Page) {
        let share = rand::rng().random_range(0.5..=1.0);
        let milliseconds = u64::try_from(self.ttl.mul_f64(share).as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        let value = encode(generation, page);
        // Redis being away is no news to the caller.
        let _: Option<()> = self
            .cache
            .ask(pipe().pset_ex(self.key(query), value, milliseconds).ignore())
            .await;
    }

    fn key(&self, query: &Query) -> String {
        let mut key = format!("{}search:answer:", self.cache.prefix());
        // Queries are made of numbers and strings, which always serialize.
        for byte in Sha256::digest(serde_json::to_vec(query).unwrap_or_default()) {
            let _ = write!(key, "{byte:02x}");
        }
        key
    }
}

/// Generation, next cursor (empty where there is none) and body, a line each.
fn encode(generation: &str, page: &Page) -> Vec<u8> {
    let next = page.next.as_deref().unwrap_or_default();
    [generation.as_bytes(), next.as_bytes(), &page.body].join(&b'\n')
}

/// The page, if it is of this generation.
fn decode(value: Vec<u8>, generation: &str) -> Option<Page> {
    let value = Bytes::from(value);
    let mut parts = value.splitn(3, |byte| *byte == b'\n');
    let (found, next, body) = (parts.next()?, parts.next()?, parts.next()?);
    if found != generation.as_bytes() {
        return None;
    }
    let next = std::str::from_utf8(next).ok()?;
    Some(Page {
        body: value.slice_ref(body),
        next: (!next.is_empty()).then(|| next.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_found_again_under_its_own_generation_only() {
        for next in [None, Some("cursor".to_owned())] {
            let page = Page {
                body: Bytes::from_static(b"[\n1]"),
                next,
            };
            let value = encode("one", &page);
            assert_eq!(decode(value.clone(), "one"), Some(page));
            assert_eq!(decode(value, "two"), None);
        }
        assert_eq!(decode(b"garbage".to_vec(), "garbage"), None);
    }
}
