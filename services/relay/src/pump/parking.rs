//! What Kafka refuses: parking an event and those behind it, and trying again.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;

use super::Pump;
use crate::{
    error::Error,
    lease::{Attempt, Parking},
    outbox::{self, Event},
    parked,
    publish::Delivery,
};

/// More parked aggregates than this are no longer the fault of single events.
pub(super) const MAX_PARKED: usize = 10_000;
/// So many parked events are tried again at a time.
const RETRIES: usize = 500;
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Tickets with this bit are attempts at parked events, and the rest of the ticket is the outbox id.
pub(super) const RETRY: usize = 1 << (usize::BITS - 1);

impl Pump<'_> {
    pub(super) fn refused(&mut self, sequence: usize, refusal: String) -> Result<(), Error> {
        let aggregates = self.lanes.parked().len();
        if aggregates >= MAX_PARKED {
            return Err(Error::TooManyParked { aggregates, refusal });
        }
        let Some(entry) = self.tracker.entry(sequence) else {
            return Ok(());
        };
        tracing::warn!(
            outbox_id = entry.outbox_id,
            refusal,
            "parked an event that Kafka refuses"
        );
        self.park(sequence, Some(refusal));
        for (behind, _) in self.lanes.refused(entry.lane) {
            self.park(behind, None);
        }
        Ok(())
    }

    pub(super) fn park(&mut self, sequence: usize, error: Option<String>) {
        if let Some(entry) = self.tracker.settle(sequence) {
            self.parking.push(Parking {
                outbox_id: entry.outbox_id,
                xid: entry.xid,
                error,
            });
        }
    }

    /// Tries the first parked event of each aggregate again where its time has come. Lanes without parked events, be it
    /// that all were published or that somebody discarded them, are open again, but not while an attempt is under way:
    /// a later event must not overtake it.
    pub(super) async fn retry_parked(&mut self) -> Result<(), Error> {
        if self.unsaved() {
            self.save().await?;
        }
        self.next_retry = Instant::now() + RETRY_INTERVAL;
        let heads = parked::heads(self.lease.connection()).await?;
        // In this order: what is no head because it was discarded is known as such before its lane opens.
        let published = self.tracker.checkpoint().snapshot;
        self.discarded = parked::discarded(self.lease.connection(), &published).await?;
        let under_way: HashSet<_> = self.retrying.values().copied().collect();
        let due: Vec<_> = heads
            .iter()
            .filter(|head| head.due && !under_way.contains(&head.lane))
            .take(RETRIES.saturating_sub(self.retrying.len()))
            .map(|head| head.outbox_id)
            .collect();
        self.lanes
            .set_parked(heads.iter().map(|head| head.lane).chain(under_way).collect());
        if due.is_empty() {
            return Ok(());
        }
        for row in parked::rows(self.lease.connection(), &due).await? {
            let entry = outbox::entry(&row)?;
            let ticket = RETRY | usize::try_from(entry.outbox_id).unwrap_or_default();
            self.retrying.insert(entry.outbox_id, entry.lane);
            if let Err(refusal) = self.producer.send(ticket, &Event::of(&row)?) {
                self.settle(Delivery {
                    ticket,
                    result: Err(refusal),
                })?;
            }
        }
        Ok(())
    }

    pub(super) fn settle_retry(&mut self, ticket: usize, error: Option<String>) {
        let outbox_id = i64::try_from(ticket & !RETRY).unwrap_or_default();
        if self.retrying.remove(&outbox_id).is_none() {
            return;
        }
        if error.is_none() {
            self.report.metrics.retried.inc();
            if self.retrying.is_empty() {
                // The next one of its aggregate need not wait.
                self.next_retry = Instant::now();
            }
        }
        self.attempts.push(Attempt { outbox_id, error });
    }
}
