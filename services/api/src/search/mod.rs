//! Searching orders: Elasticsearch, with a cache of two levels in front of it.
//!
//! A cached answer is good for as long as the generation that was current before Elasticsearch was asked is still the current
//! one (see [`commerce_core::search_cache`]); another one is as good as none. Redis holds answers and generations. This
//! process holds the answers it has seen, too, so that Redis has to be asked for the generation only, and not even this
//! while the answer was known to be current less than [`SearchCache::trust`] ago: so much later than Redis, at most, does a
//! replica learn that orders have changed. This holds without Redis as well.
//!
//! Searches for the same thing at the same time share one question to Elasticsearch: on one replica always, among replicas
//! through a lock in Redis, for which nobody waits longer than [`SearchCache::patience`].
//!
//! Two kinds of answers are marked as stale. Stale while revalidate: its generation is the current one, but it was cached a
//! while ago; one request has it replaced in the background. Stale if error: it is out of date, but Elasticsearch fails. Both
//! terms are RFC 5861's.

mod entry;
mod index;
mod memory;
mod stored;

use std::{sync::Arc, time::Instant};

use axum::body::Bytes;
use commerce_core::order::Status;
use moka::future::Cache as Flights;
use serde::Serialize;
use tracing::Instrument as _;

pub use self::index::{Error, REQUEST_TIMEOUT};
use self::{
    entry::{Entry, Lifetime},
    index::Index,
    memory::Memory,
    stored::{Keys, Stored},
};
use crate::{
    cache::Cache,
    config::SearchCache,
    metrics::{Level, Outcome, SearchMetrics},
};

/// How many different searches can be under way at once before some are asked twice.
const FLIGHTS: u64 = 10_000;

/// What to find. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Query {
    pub user_id: Option<String>,
    pub sku_id: Option<i64>,
    pub correlation_id: Option<String>,
    pub status: Option<Status>,
    /// Inclusive.
    pub created_from: Option<i64>,
    /// Exclusive.
    pub created_to: Option<i64>,
    pub limit: u16,
    pub after: Option<Position>,
}

/// The last order of a page: its time of creation in milliseconds since 1970, and its id.
pub type Position = (i64, String);

/// One page of orders, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// A JSON array of [`crate::orders::read::Order`].
    pub body: Bytes,
    /// The cursor of the next page, if there is one.
    pub next: Option<String>,
}

impl Query {
    /// Bytes in its texts.
    fn text_size(&self) -> usize {
        let texts = [&self.user_id, &self.correlation_id];
        texts.into_iter().flatten().map(String::len).sum()
    }
}

impl Page {
    /// Whether nothing was found.
    fn is_empty(&self) -> bool {
        self.body == "[]"
    }

    /// In bytes.
    fn size(&self) -> usize {
        self.body.len() + self.next.as_ref().map_or(0, String::len)
    }
}

/// How an answer came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From the cache.
    Hit,
    /// From Elasticsearch; the cache has it now.
    Miss,
    /// From Elasticsearch; Redis is away.
    Bypass,
    /// From the cache: one that is being replaced, or one that is out of date where Elasticsearch fails.
    Stale,
}

impl Source {
    /// As the header `X-Cache` says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Bypass => "BYPASS",
            Self::Stale => "STALE",
        }
    }
}

/// A page, and how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub page: Page,
    pub source: Source,
    /// Whole seconds since Elasticsearch was asked; only for what comes from the cache.
    pub age: Option<u64>,
}

impl Answer {
    fn cached(entry: &Entry, source: Source) -> Self {
        Self {
            page: entry.page.clone(),
            source,
            age: Some(entry.age().as_secs()),
        }
    }
}

/// What the cache has for a query.
enum Known {
    /// An answer of the current generation that is alive.
    Current(Arc<Entry>, Level),
    /// Nothing that may be served, but perhaps an answer that is out of date.
    Nothing {
        /// The current one; `None` where Redis is away.
        generation: Option<String>,
        outdated: Option<(Arc<Entry>, Level)>,
    },
}

/// Finds orders.
#[derive(Debug)]
pub struct Search {
    index: Index,
    memory: Memory,
    stored: Stored,
    /// Searches under way. The generation is part of the key, so that nobody joins one that began before orders that it
    /// should find became searchable.
    flights: Flights<(Query, Option<String>), Arc<Entry>>,
    config: SearchCache,
    metrics: SearchMetrics,
}

impl Search {
    /// Searches the index behind `alias`.
    pub fn new(
        client: elasticsearch::Elasticsearch,
        alias: String,
        cache: Arc<Cache>,
        config: SearchCache,
        metrics: SearchMetrics,
    ) -> Self {
        Self {
            index: Index::new(client, alias),
            memory: Memory::new(config.ttl.max(config.stale_if_error)),
            stored: Stored::new(cache),
            flights: Flights::builder().max_capacity(FLIGHTS).build(),
            config,
            metrics,
        }
    }

    /// One page.
    pub async fn find(self: &Arc<Self>, query: &Query) -> Result<Answer, Arc<Error>> {
        let kept = self.memory.get(query).await;
        if let Some(entry) = &kept
            && entry.is_trusted(self.config.trust)
            && entry.is_alive()
        {
            return Ok(self.serve(query, entry, Level::Memory));
        }
        let keys = self.stored.keys(query);
        let (generation, outdated) = match self.look_up(query, &keys, kept).await {
            Known::Current(entry, level) => return Ok(self.serve(query, &entry, level)),
            Known::Nothing { generation, outdated } => (generation, outdated),
        };
        let (source, outcome) = if generation.is_some() {
            (Source::Miss, Outcome::Miss)
        } else {
            (Source::Bypass, Outcome::Bypass)
        };
        let error = match self.ask_once(query, &keys, generation).await {
            Ok(entry) => {
                self.metrics.answered(Level::Elasticsearch, outcome);
                return Ok(Answer {
                    page: entry.page.clone(),
                    source,
                    age: None,
                });
            }
            Err(error) => error,
        };
        let longest = self.config.stale_if_error;
        let Some((entry, level)) = outdated.filter(|(entry, _)| entry.age() < longest) else {
            self.metrics.answered(Level::Elasticsearch, Outcome::Failed);
            return Err(error);
        };
        tracing::warn!(%error, "searching orders failed; answering with what was cached");
        self.metrics.answered(level, Outcome::StaleIfError);
        Ok(Answer::cached(&entry, Source::Stale))
    }

    /// An answer of the current generation; has it replaced when it is time.
    fn serve(self: &Arc<Self>, query: &Query, entry: &Arc<Entry>, level: Level) -> Answer {
        if entry.is_fresh() {
            self.metrics.answered(level, Outcome::Hit);
            return Answer::cached(entry, Source::Hit);
        }
        if entry.begin_refresh() {
            let refresh = self.clone().refresh(query.clone(), entry.clone());
            tokio::spawn(refresh.in_current_span());
        }
        self.metrics.answered(level, Outcome::StaleWhileRevalidate);
        Answer::cached(entry, Source::Stale)
    }

    /// Replaces an entry of memory by a newer answer: that of another replica, or that of Elasticsearch.
    async fn refresh(self: Arc<Self>, query: Query, old: Arc<Entry>) {
        let keys = self.stored.keys(&query);
        // Without Redis, nobody knows whether the old one is current: it is not served for much longer.
        let Some(found) = self.stored.look_up(&keys).await else {
            return old.refresh_failed();
        };
        if let Some(newer) = found.entry.filter(Entry::is_fresh) {
            return self.memory.put(&query, Arc::new(newer)).await;
        }
        if let Err(error) = self.ask_once(&query, &keys, Some(found.generation)).await {
            tracing::warn!(%error, "replacing a cached search answer failed");
            old.refresh_failed();
        }
    }

    /// What memory and Redis have, `kept` being what memory has.
    async fn look_up(&self, query: &Query, keys: &Keys, kept: Option<Arc<Entry>>) -> Known {
        let away = |outdated: Option<Arc<Entry>>| Known::Nothing {
            generation: None,
            outdated: outdated.map(|entry| (entry, Level::Memory)),
        };
        if let Some(entry) = kept.as_ref().filter(|entry| entry.is_alive()) {
            let at = Instant::now();
            match self.stored.generation(keys).await {
                None => return away(kept),
                Some(generation) if entry.confirm(&generation, at) => {
                    return Known::Current(entry.clone(), Level::Memory);
                }
                Some(_) => {}
            }
        }
        let Some(found) = self.stored.look_up(keys).await else {
            return away(kept);
        };
        let stored = found.entry.map(Arc::new);
        if let Some(entry) = stored.as_ref().filter(|entry| entry.is_alive()) {
            self.memory.put(query, entry.clone()).await;
            return Known::Current(entry.clone(), Level::Redis);
        }
        let outdated = match (kept, stored) {
            (None, Some(entry)) => {
                // Redis forgets it sooner than it may be needed.
                self.memory.put(query, entry.clone()).await;
                Some((entry, Level::Redis))
            }
            (Some(kept), Some(stored))
                if stored.generation != kept.generation && stored.age() < kept.age() =>
            {
                Some((stored, Level::Redis))
            }
            (kept, _) => kept.map(|entry| (entry, Level::Memory)),
        };
        Known::Nothing {
            generation: Some(found.generation),
            outdated,
        }
    }

    /// Asks Elasticsearch, together with all who ask the same now.
    async fn ask_once(
        &self,
        query: &Query,
        keys: &Keys,
        generation: Option<String>,
    ) -> Result<Arc<Entry>, Arc<Error>> {
        let flight = (query.clone(), generation);
        let ask = self.ask(query, keys, flight.1.as_deref());
        let entry = self.flights.entry_by_ref(&flight).or_try_insert_with(ask).await?;
        if entry.is_fresh() {
            // Flights are for those who wait; answers are kept elsewhere.
            self.flights.invalidate(&flight).await;
        }
        Ok(entry.into_value())
    }

    async fn ask(&self, query: &Query, keys: &Keys, generation: Option<&str>) -> Result<Arc<Entry>, Error> {
        if let Some(generation) = generation {
            // The answer may have come since the cache was asked.
            let kept = self.memory.get(query).await;
            if let Some(entry) = kept.filter(|entry| entry.is_fresh() && entry.is_of(generation)) {
                return Ok(entry);
            }
            let patience = self.config.patience;
            if let Some(entry) = self.stored.wait_turn(keys, generation, patience).await {
                let entry = Arc::new(entry);
                self.memory.put(query, entry.clone()).await;
                return Ok(entry);
            }
        }
        let asked = Instant::now();
        match self.index.find(query).await {
            Ok(page) => {
                let lifetime = Lifetime::draw(self.config.ttl, &page);
                let entry = Entry::new(page, lifetime, generation.map(str::to_owned), asked);
                let entry = Arc::new(entry);
                self.memory.put(query, entry.clone()).await;
                self.stored.store(keys, &entry).await;
                Ok(entry)
            }
            Err(error) => {
                if let Some(generation) = generation {
                    self.stored.release(keys, generation).await;
                }
                Err(error)
            }
        }
    }
}
