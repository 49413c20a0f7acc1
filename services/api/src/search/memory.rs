//! Search answers in this process.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;

use super::{Query, entry::Entry};

/// What all entries together may take, in bytes; who has not been asked for longest goes first.
const CAPACITY: u64 = 32 * 1024 * 1024;
/// What an entry takes beside its body and texts: the structs, and the cache's own records.
const OVERHEAD: usize = 512;

#[derive(Debug)]
pub struct Memory {
    entries: Cache<Query, Arc<Entry>>,
}

impl Memory {
    /// Forgets what is older than `longest`.
    pub fn new(longest: Duration) -> Self {
        let entries = Cache::builder()
            .max_capacity(CAPACITY)
            .weigher(|query: &Query, entry: &Arc<Entry>| {
                u32::try_from(OVERHEAD + query.text_size() + entry.page.size()).unwrap_or(u32::MAX)
            })
            .time_to_live(longest)
            .build();
        Self { entries }
    }

    pub async fn get(&self, query: &Query) -> Option<Arc<Entry>> {
        self.entries.get(query).await
    }

    pub async fn put(&self, query: &Query, entry: Arc<Entry>) {
        self.entries.insert(query.clone(), entry).await;
    }
}
