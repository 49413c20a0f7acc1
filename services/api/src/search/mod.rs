//! Searching orders: Elasticsearch, with Redis in front of it.
//!
//! An answer is kept in Redis together with the generation (see [`commerce_core::search_cache`]) that was current before
//! Elasticsearch was asked; one look at Redis gives both, and an answer of another generation is as good as none.
//! Searches for the same thing at the same time on this replica share one question to Elasticsearch.

mod index;
mod stored;

use std::{sync::Arc, time::Duration};

use axum::body::Bytes;
use commerce_core::order::Status;
use moka::future::Cache as Flights;
use serde::Serialize;

pub use self::index::{Error, REQUEST_TIMEOUT};
use self::{index::Index, stored::Stored};
use crate::cache::Cache;

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

/// Where a page came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Redis.
    Hit,
    /// Elasticsearch; Redis has it now.
    Miss,
    /// Elasticsearch; Redis is away.
    Bypass,
}

impl Source {
    /// As the header `X-Cache` says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Bypass => "BYPASS",
        }
    }
}

/// Finds orders.
#[derive(Debug)]
pub struct Search {
    index: Index,
    stored: Stored,
    /// Searches under way. The generation is part of the key, so that nobody joins one that began before orders that it
    /// should find became searchable.
    flights: Flights<(Query, Option<String>), Page>,
}

impl Search {
    /// Searches the index behind `alias`; answers are cached for up to `ttl`.
    pub fn new(
        client: elasticsearch::Elasticsearch,
        alias: String,
        cache: Arc<Cache>,
        ttl: Duration,
    ) -> Self {
        let flights = Flights::builder().max_capacity(FLIGHTS).build();
        Self {
            index: Index::new(client, alias),
            stored: Stored::new(cache, ttl),
            flights,
        }
    }

    /// One page, and where it came from.
    pub async fn find(&self, query: &Query) -> Result<(Page, Source), Arc<Error>> {
        let generation = match self.stored.look_up(query).await {
            stored::Lookup::Hit(page) => return Ok((page, Source::Hit)),
            stored::Lookup::Miss { generation } => Some(generation),
            stored::Lookup::Away => None,
        };
        let source = if generation.is_some() {
            Source::Miss
        } else {
            Source::Bypass
        };
        let flight = (query.clone(), generation.clone());
        let ask = async {
            let page = self.index.find(query).await?;
            if let Some(generation) = &generation {
                self.stored.store(query, generation, &page).await;
            }
            Ok(page)
        };
        let entry = self.flights.entry_by_ref(&flight).or_try_insert_with(ask).await?;
        if entry.is_fresh() {
            // Flights are for those who wait; answers are kept in Redis.
            self.flights.invalidate(&flight).await;
        }
        Ok((entry.into_value(), source))
    }
}
