//! A second index that takes live events while it is being filled (`rebuild --live`), so that it misses none when the alias
//! is moved to it.
//!
//! It is known by an alias of its own, `<alias>~next`. Each batch goes into it first and then through the alias: whenever the
//! alias is moved, the batch is in the index that it then leads to. Whoever writes asked for the second alias not longer than
//! [`KNOWN`] ago, and `rebuild` reads PostgreSQL only after that time: an event that missed the new index was in PostgreSQL
//! before. An index that does not take everything loses its alias, and with it the right to become the one that is used.

use std::{ops::Range, sync::Mutex, sync::PoisonError, time::Duration};

use bytes::Bytes;
use commerce_core::{
    elasticsearch::{ElasticsearchConfig, Error, body_if_found},
    index::next_alias,
};
use elasticsearch::{
    Elasticsearch,
    indices::{IndicesDeleteAliasParts, IndicesGetAliasParts, IndicesRefreshParts},
};
use tokio::time::Instant;

use crate::{
    backoff::Backoff,
    bulk::BulkClient,
    delivery::{Answer, Delivery, Lines, Settled},
    problem::with_cause,
};

/// How long an answer about the alias is good for.
pub(crate) const KNOWN: Duration = Duration::from_secs(5);
/// How long it may take no documents.
const PATIENCE: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Target {
    client: Elasticsearch,
    bulk: BulkClient,
    alias: String,
    /// When it was asked for, and whether it was there.
    known: Mutex<Option<(Instant, bool)>>,
}

struct Item(Range<usize>);

impl Lines for Item {
    fn lines(&self) -> Range<usize> {
        self.0.clone()
    }
}

impl Target {
    pub(crate) fn new(config: &ElasticsearchConfig) -> Result<Self, Error> {
        let alias = next_alias(&config.index);
        let target = ElasticsearchConfig {
            index: alias.clone(),
            ..config.clone()
        };
        Ok(Self {
            client: config.client(TIMEOUT)?,
            bulk: BulkClient::new(&target)?,
            alias,
            known: Mutex::default(),
        })
    }

    /// Whether there is one. Waits until Elasticsearch has answered; `away` is told why it has to.
    pub(crate) async fn is_there(&self, away: impl Fn(String)) -> bool {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((asked, there)) = known
            && asked.elapsed() < KNOWN
        {
            return there;
        }
        let mut backoff = Backoff::new();
        loop {
            let asked = Instant::now();
            let parts = IndicesGetAliasParts::Name(&[&self.alias]);
            let answer = self.client.indices().get_alias(parts).send().await;
            match body_if_found("read the alias of the next index", answer).await {
                Ok(found) => {
                    let there = found.is_some();
                    *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((asked, there));
                    return there;
                }
                Err(error) => away(with_cause(&error)),
            }
            backoff.wait().await;
        }
    }

    /// Writes documents; `lines` are their places in `body`. Returns when it has them all, or is not the next index any more.
    pub(crate) async fn write(&self, body: Bytes, lines: Vec<Range<usize>>, away: impl Fn(String)) {
        let mut delivery = Delivery::new(body, lines.into_iter().map(Item).collect());
        let mut since = Instant::now();
        while let Some(answer) = delivery.next(&self.bulk).await {
            let (refused, waits) = match answer {
                Answer::Each { settled, again, .. } => {
                    if again.is_none() {
                        since = Instant::now();
                    }
                    let refused = settled.into_iter().find_map(|(_, settled)| match settled {
                        Settled::Rejected(error) => Some(error),
                        Settled::Done | Settled::Conflict => None,
                    });
                    (refused, again.map(|(_, problem)| problem))
                }
                Answer::Failed { problem, .. } => (None, Some(problem)),
            };
            let late = waits.filter(|_| since.elapsed() > PATIENCE);
            if let Some(problem) = refused.or(late) {
                return self.give_up(&problem, away).await;
            }
            // Without its alias, Elasticsearch refuses for the time being.
            self.forget();
            if !self.is_there(&away).await {
                return;
            }
        }
    }

    /// Makes searchable what was written into it.
    pub(crate) async fn refresh(&self, away: impl Fn(String)) {
        let mut backoff = Backoff::new();
        while self.is_there(&away).await {
            let parts = IndicesRefreshParts::Index(&[&self.alias]);
            let answer = self.client.indices().refresh(parts).send().await;
            match body_if_found("refresh the next index", answer).await {
                Ok(_) => return,
                Err(error) => away(with_cause(&error)),
            }
            self.forget();
            backoff.wait().await;
        }
    }

    fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// It must not become the one that is used.
    async fn give_up(&self, problem: &str, away: impl Fn(String)) {
        tracing::error!(
            problem,
            alias = self.alias,
            "the next index does not take what the present one does; it gets no more events"
        );
        loop {
            self.forget();
            if !self.is_there(&away).await {
                return;
            }
            let parts = IndicesDeleteAliasParts::IndexName(&["_all"], &[&self.alias]);
            let answer = self.client.indices().delete_alias(parts).send().await;
            if let Err(error) = body_if_found("remove the alias of the next index", answer).await {
                away(with_cause(&error));
            }
        }
    }
}
