//! Orders whose documents seemed to differ, until it is known whether they do and, where that was asked for, mended.
//!
//! Each is looked at by its id: first the document, then the order, so that the order is never the older one. An order that
//! was changed within the grace may still be on its way, and is looked at again.
//!
//! How a document is mended depends on its version as Elasticsearch counts it:
//! - Lower than the order's, or there is none: it is written with the order's version, and where Elasticsearch remembers that
//!   somebody deleted it at a higher one, once more when that is forgotten (see below).
//! - The same: it is written with the order's version, which here may replace the same one.
//! - Higher, by somebody who wrote past the indexer: it would keep out the order's next events. It is deleted, and written
//!   when Elasticsearch has forgotten the deletion (`index.gc_deletes`, a minute); until then, searches do not find it.
//! - There is no such order: it is deleted, at the version that was seen. Should an order get this id, its event would fail
//!   for as long as Elasticsearch remembers the deletion; so it is looked at again after that.
//!
//! Each time, what an event has written meanwhile has a higher version, or is the same, and stays.

use std::{cmp::Reverse, collections::HashMap, ops::Range, time::Duration};

use anyhow::Context as _;
use chrono::Utc;
use serde_json::Value;
use sqlx::PgConnection;
use tokio::time::{Instant, sleep_until};

use super::{
    super::{
        READING, deliver,
        documents::{Document, Documents},
        order::{Order, number},
        orders,
        progress::Progress,
    },
    report::{Difference, Kind, Report},
};
use crate::{
    bulk::BulkClient,
    delivery::{Lines, Settled},
    document::{VersionType, write_deletion},
};

/// So many are remembered. More wait to be found.
const MOST: usize = 100_000;
/// So many are looked at together.
const BATCH: usize = 1_000;
/// So often is one mended before it is given up: whoever spoils it again and again is to be found first.
const ATTEMPTS: u32 = 3;

pub(super) struct Suspects<'a> {
    documents: &'a Documents,
    connection: PgConnection,
    grace: Duration,
    repair: Option<Repair>,
    /// By id: the block of a document that tells another order's id finds it, and the block of its own.
    all: HashMap<String, Suspect>,
    /// The lowest order id among those that are being looked at, which are not in `all`.
    at_hand: Option<i64>,
}

/// What it takes to mend.
pub(super) struct Repair {
    pub(super) bulk: BulkClient,
    /// How long Elasticsearch remembers deletions.
    pub(super) gc_deletes: Duration,
}

struct Suspect {
    id: String,
    /// When to look at it.
    due: Instant,
    /// So often was something done to mend it. It is reported before.
    attempts: u32,
}

/// Something done to a document.
struct Change {
    suspect: Suspect,
    lines: Range<usize>,
}

impl Lines for Change {
    fn lines(&self) -> Range<usize> {
        self.lines.clone()
    }
}

impl<'a> Suspects<'a> {
    pub(super) fn new(
        documents: &'a Documents,
        connection: PgConnection,
        grace: Duration,
        repair: Option<Repair>,
    ) -> Self {
        Self {
            documents,
            connection,
            grace,
            repair,
            all: HashMap::new(),
            at_hand: None,
        }
    }

    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    pub(super) fn add(&mut self, ids: Vec<String>) {
        let due = Instant::now() + self.grace;
        for id in ids {
            let suspect = Suspect {
                id: id.clone(),
                due,
                attempts: 0,
            };
            self.all.entry(id).or_insert(suspect);
        }
    }

    /// It is to be looked at again.
    fn keep(&mut self, suspect: Suspect) {
        self.all.insert(suspect.id.clone(), suspect);
    }

    /// The lowest id of an order that is not settled.
    pub(super) fn first(&self) -> Option<i64> {
        lowest(self.all.values()).into_iter().chain(self.at_hand).min()
    }

    /// Settles those that are due, and more if there are too many.
    pub(super) async fn settle_some(
        &mut self,
        report: &mut Report,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        self.settle_due(report, progress).await?;
        while self.all.len() >= MOST {
            self.settle_next(report, progress).await?;
        }
        Ok(())
    }

    pub(super) async fn settle_all(
        &mut self,
        report: &mut Report,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        while !self.all.is_empty() {
            self.settle_next(report, progress).await?;
        }
        Ok(())
    }

    /// Settles those that are the next to be due.
    async fn settle_next(&mut self, report: &mut Report, progress: &Progress) -> anyhow::Result<()> {
        if let Some(next) = self.all.values().map(|suspect| suspect.due).min() {
            let wait = next.saturating_duration_since(Instant::now());
            if wait > Duration::from_secs(2) {
                let count = self.all.len();
                progress.say(&format!(
                    "looking again at {count} in {:.0} s",
                    wait.as_secs_f64()
                ));
            }
            sleep_until(next).await;
        }
        self.settle_due(report, progress).await
    }

    async fn settle_due(&mut self, report: &mut Report, progress: &Progress) -> anyhow::Result<()> {
        let now = Instant::now();
        let due = self.all.extract_if(|_, suspect| suspect.due <= now);
        let mut due: Vec<_> = due.map(|(_, suspect)| suspect).collect();
        due.sort_unstable_by_key(|suspect| Reverse(number(&suspect.id)));
        while !due.is_empty() {
            self.at_hand = lowest(&due);
            let batch = due.split_off(due.len().saturating_sub(BATCH));
            self.look(batch, report, progress).await?;
        }
        self.at_hand = None;
        Ok(())
    }

    async fn look(
        &mut self,
        batch: Vec<Suspect>,
        report: &mut Report,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let ids: Vec<_> = batch.iter().map(|suspect| suspect.id.as_str()).collect();
        let documents = self.documents.get(&ids).await?;
        let documents: HashMap<_, _> = documents
            .into_iter()
            .map(|document| (document.id.clone(), document))
            .collect();
        let numbers: Vec<_> = ids.iter().filter_map(|id| number(id)).collect();
        let orders = orders::these(&mut self.connection, &numbers)
            .await
            .context(READING)?;
        let orders: HashMap<_, _> = orders
            .into_iter()
            .map(|aged| (aged.order.id.clone(), aged))
            .collect();
        let last = orders::last(&mut self.connection).await.context(READING)?;

        let (mut changes, mut body) = (Vec::new(), Vec::new());
        for mut suspect in batch {
            let (aged, document) = (orders.get(&suspect.id), documents.get(&suspect.id));
            let order = aged.map(|aged| &aged.order);
            let Some(difference) = difference(&suspect.id, order, document) else {
                if suspect.attempts > 0 {
                    report.repaired();
                }
                continue;
            };
            if suspect.attempts == 0 {
                if let Some(rest) = aged.and_then(|aged| self.rest_of_grace(aged.age)) {
                    suspect.due = Instant::now() + rest;
                    self.keep(suspect);
                    continue;
                }
                report.tell(&difference, progress)?;
            }
            let Some(repair) = &self.repair else { continue };
            if suspect.attempts == ATTEMPTS {
                report.not_repaired(&suspect.id, "it differs again", progress);
                continue;
            }
            suspect.attempts += 1;
            suspect.due = Instant::now();
            let forgotten = repair.gc_deletes + Duration::from_secs(1);
            let lines = match (order, document) {
                (Some(order), None) => {
                    // It was not taken twice: somebody has deleted it at a higher version.
                    if suspect.attempts == ATTEMPTS - 1 {
                        suspect.due += forgotten;
                    }
                    write(order, VersionType::External, &mut body)
                }
                (Some(order), Some(document)) if document.version < order.version => {
                    write(order, VersionType::External, &mut body)
                }
                (Some(order), Some(document)) if document.version == order.version => {
                    write(order, VersionType::ExternalGte, &mut body)
                }
                (_, Some(document)) => {
                    // An id that was given out is not given out again.
                    if order.is_some() || number(&document.id).is_some_and(|number| number > last) {
                        suspect.due += forgotten;
                    }
                    write_deletion(&document.id, document.version, &mut body)
                }
                (None, None) => continue,
            };
            changes.push(Change { suspect, lines });
        }
        self.change(changes, body, report, progress).await
    }

    async fn change(
        &mut self,
        changes: Vec<Change>,
        body: Vec<u8>,
        report: &mut Report,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let Some(repair) = &self.repair else {
            return Ok(());
        };
        let settled = deliver(&repair.bulk, body, changes, progress).await?;
        for (change, settled) in settled {
            match settled {
                Settled::Rejected(error) => report.not_repaired(&change.suspect.id, &error, progress),
                // A conflict: something newer has come meanwhile. Either way, it is looked at again.
                Settled::Done | Settled::Conflict => self.keep(change.suspect),
            }
        }
        Ok(())
    }

    /// How long an order that was changed so many seconds ago may still be on its way.
    fn rest_of_grace(&self, age: f64) -> Option<Duration> {
        let age = Duration::try_from_secs_f64(age.max(0.0)).unwrap_or(Duration::MAX);
        self.grace.checked_sub(age).filter(|rest| !rest.is_zero())
    }
}

fn lowest<'a>(suspects: impl IntoIterator<Item = &'a Suspect>) -> Option<i64> {
    suspects
        .into_iter()
        .filter_map(|suspect| number(&suspect.id))
        .min()
}

fn write(order: &Order, version: VersionType, body: &mut Vec<u8>) -> Range<usize> {
    order.document(Utc::now()).write(version, body)
}

/// What is wrong with a document, if anything is.
fn difference(id: &str, order: Option<&Order>, document: Option<&Document<Value>>) -> Option<Difference> {
    let told = document.and_then(|document| document.source["version"].as_i64());
    let mut fields = Vec::new();
    let kind = match (order, document) {
        (None, None) => return None,
        (Some(_), None) => Kind::Missing,
        (None, Some(_)) => Kind::Ghost,
        (Some(order), Some(document)) => {
            fields = order.differing(&document.source);
            match told {
                Some(version) if version < order.version => Kind::Stale,
                Some(version) if version > order.version => Kind::Ahead,
                _ if !fields.is_empty() => Kind::Differing,
                _ if document.version != order.version => Kind::Misversioned,
                _ => return None,
            }
        }
    };
    Some(Difference {
        order_id: id.to_owned(),
        kind,
        order_version: order.map(|order| order.version),
        document_version: told,
        index_version: document.map(|document| document.version),
        fields,
    })
}
