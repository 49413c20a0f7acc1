//! The active relay: reads windows, keeps events in order, publishes them, moves the checkpoint.
//!
//! One task does it all, so nothing is shared and nothing is locked. Reading and publishing go on beside it, in a task
//! and a thread of their own, and are bounded by how much may be under way. The next window is read while events of the
//! last one are still under way.

mod parking;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use commerce_core::trace::Tracer;
use sqlx::postgres::PgRow;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::parking::{MAX_PARKED, RETRY};
use crate::{
    Config,
    error::Error,
    lanes::{Lanes, Turn},
    lease::{Attempt, HEARTBEAT, Lease, Parking},
    outbox::{self, Event, Piece, Reader, Request},
    parked,
    publish::{Delivery, Producer, Refusal},
    report::{Backlog, Report},
    tracker::{Checkpoint, Snapshot, Tracker},
    wake::Wake,
};

/// The checkpoint moves at most this often.
const SAVE_INTERVAL: Duration = Duration::from_millis(100);
/// Windows begin at least this far apart, so that a stream of single events is read a few at a time.
const MIN_POLL: Duration = Duration::from_millis(2);
/// Kafka is reported as away when it has acknowledged nothing for so long, and the reading statement is given up, since
/// an open one keeps PostgreSQL from vacuuming.
const STALLED: Duration = Duration::from_secs(5);
/// How long to wait for acknowledgements when stopping.
const DRAIN: Duration = Duration::from_secs(10);
/// No more bytes than this are under way (but always one event).
const MAX_BYTES: usize = 32 << 20;
/// Acknowledged events may be this many times the batch size ahead of one that is not.
const MAX_AHEAD: usize = 20;
/// How the relay fares, for whoever reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow<'a> {
    Flowing,
    /// Kafka acknowledges nothing; with what its client complained about last.
    Stalled(Option<&'a str>),
}

/// The active relay's state. All of it can be lost: the checkpoint has what matters.
pub struct Pump<'a> {
    config: &'a Config,
    report: &'a Report,
    lease: &'a mut Lease,
    producer: Producer,
    reader: Option<Reader>,
    tracker: Tracker,
    lanes: Lanes<(usize, PgRow)>,
    /// Where the window being read, or the next one, starts.
    previous: Snapshot,
    /// The window being read, and the last id read of it.
    window: Option<(Snapshot, i64)>,
    window_events: u32,
    /// What is to come of it, as the survey found.
    unread: u64,
    /// The reader owes an answer.
    asked: bool,
    last_poll: Instant,
    next_poll: Instant,
    idle_wait: Duration,
    next_save: Instant,
    /// To be saved with the next checkpoint.
    parking: Vec<Parking>,
    attempts: Vec<Attempt>,
    /// Lanes of the parked events being tried again.
    retrying: HashMap<i64, u64>,
    /// Of the events after the checkpoint, those that somebody has discarded already.
    discarded: HashSet<i64>,
    next_retry: Instant,
    /// The last outbox id handed out, as of the last heartbeat.
    last_id: i64,
    /// The highest outbox id found.
    highest_found: i64,
    parked: u64,
    /// PostgreSQL's clock (microseconds since 1970) at an instant of ours.
    clock: (i64, Instant),
    last_progress: Instant,
}

impl<'a> Pump<'a> {
    /// Starts at `checkpoint`, which came with the lease.
    pub async fn start(
        config: &'a Config,
        report: &'a Report,
        tracer: &Tracer,
        lease: &'a mut Lease,
        checkpoint: Checkpoint,
    ) -> Result<Self, Error> {
        let pulse = lease.heartbeat().await?;
        let heads = parked::heads(lease.connection()).await?;
        let discarded = parked::discarded(lease.connection(), &checkpoint.snapshot).await?;
        let now = Instant::now();
        Ok(Self {
            config,
            report,
            lease,
            producer: Producer::new(&config.kafka, config.batch_size, tracer.clone())?,
            reader: None,
            tracker: Tracker::new(checkpoint.clone()),
            lanes: Lanes::new(heads.iter().map(|head| head.lane).collect()),
            previous: checkpoint.snapshot,
            window: checkpoint.window,
            window_events: 0,
            unread: 0,
            asked: false,
            last_poll: now,
            next_poll: now,
            idle_wait: MIN_POLL,
            next_save: now,
            parking: Vec::new(),
            attempts: Vec::new(),
            retrying: HashMap::new(),
            discarded,
            next_retry: now,
            last_id: pulse.last_id,
            highest_found: 0,
            parked: u64::try_from(pulse.parked).unwrap_or_default(),
            clock: (pulse.now, now),
            last_progress: now,
        })
    }

    /// Publishes until `stop`, then waits for what is under way and saves it.
    pub async fn run(
        &mut self,
        wake: &Wake,
        stop: &CancellationToken,
        observe: &(impl Fn(Flow<'_>) + Sync),
    ) -> Result<(), Error> {
        let mut next_beat = Instant::now();
        let mut drain_until = None;
        loop {
            for delivery in self.producer.deliveries() {
                self.settle(delivery)?;
            }
            let now = Instant::now();
            if now >= next_beat {
                next_beat = now + HEARTBEAT;
                self.beat(observe).await?;
            }
            if self.unsaved() && now >= self.next_save {
                self.save().await?;
            }
            if drain_until.is_none() {
                if !self.lanes.parked().is_empty() && now >= self.next_retry {
                    self.retry_parked().await?;
                }
                if !self.asked && now >= self.next_poll && self.has_room() {
                    self.ask();
                }
            } else if self.under_way() == 0 || drain_until.is_some_and(|until| now >= until) {
                return Ok(());
            }
            let until = self.next_timer(next_beat, drain_until);
            let reading = self.asked && self.has_room() && drain_until.is_none();
            tokio::select! {
                () = self.producer.delivered() => {}
                piece = next_piece(&mut self.reader), if reading => self.take(piece?)?,
                () = wake.woken(), if !self.asked && drain_until.is_none() => {
                    self.idle_wait = MIN_POLL;
                    self.next_poll = self.last_poll + MIN_POLL;
                }
                () = sleep_until(until) => {}
                () = stop.cancelled(), if drain_until.is_none() => {
                    drain_until = Some(Instant::now() + DRAIN);
                    self.stop_reading();
                }
            }
        }
    }

    /// Saves what is published. To be called whatever ended [`Pump::run`].
    pub async fn finish(&mut self) -> Result<(), Error> {
        for delivery in self.producer.deliveries() {
            if delivery.result.is_ok() {
                self.settle(delivery)?;
            }
        }
        if self.unsaved() { self.save().await } else { Ok(()) }
    }

    fn next_timer(&self, next_beat: Instant, drain_until: Option<Instant>) -> Instant {
        let mut until = next_beat;
        if self.unsaved() {
            until = until.min(self.next_save);
        }
        match drain_until {
            Some(drain) => until = until.min(drain),
            None if !self.asked && self.has_room() => until = until.min(self.next_poll),
            None => {}
        }
        if !self.lanes.parked().is_empty() && drain_until.is_none() {
            until = until.min(self.next_retry);
        }
        until
    }

    fn has_room(&self) -> bool {
        let (batch, tracker) = (self.config.batch_size, &self.tracker);
        tracker.unsettled() < batch && tracker.uncovered() < MAX_AHEAD * batch && tracker.bytes() < MAX_BYTES
    }

    /// Events handed to Kafka or waiting for one that is.
    fn under_way(&self) -> usize {
        self.tracker.unsettled() + self.retrying.len()
    }

    fn ask(&mut self) {
        let reader = self.reader.get_or_insert_with(|| {
            Reader::start(&self.config.postgres, self.config.limits, self.lease.server())
        });
        reader.ask(Request {
            previous: self.previous.clone(),
            window: self.window.clone(),
        });
        self.asked = true;
        self.last_poll = Instant::now();
    }

    /// The window stays open and is gone on with at the next request.
    fn stop_reading(&mut self) {
        self.reader = None;
        self.asked = false;
    }

    fn take(&mut self, piece: Piece) -> Result<(), Error> {
        match piece {
            Piece::Nothing(current) => {
                // This is not saved: it says nothing that a look at the old snapshot would not say again.
                self.previous = current.clone();
                self.tracker.open(current);
                self.tracker.close();
                self.asked = false;
                self.next_poll = self.last_poll + self.idle_wait;
                self.idle_wait = (2 * self.idle_wait).min(self.config.poll_interval);
            }
            Piece::Opened(window) => {
                self.clock = (window.now, Instant::now());
                self.unread = window.rows;
                self.highest_found = self.highest_found.max(window.last_id);
                if self.window.is_none() {
                    self.tracker.open(window.current.clone());
                    self.window = Some((window.current, 0));
                }
            }
            Piece::Rows(rows) => {
                for row in rows {
                    self.event(row)?;
                }
            }
            Piece::End => {
                self.tracker.close();
                if let Some((current, _)) = self.window.take() {
                    self.previous = current;
                }
                self.report.metrics.windows.inc();
                self.report
                    .metrics
                    .window_events
                    .observe(f64::from(self.window_events));
                self.window_events = 0;
                self.asked = false;
                self.idle_wait = MIN_POLL;
                self.next_poll = self.last_poll + MIN_POLL;
            }
        }
        Ok(())
    }

    fn event(&mut self, row: PgRow) -> Result<(), Error> {
        let entry = outbox::entry(&row)?;
        if self.tracker.unsettled() == 0 {
            self.last_progress = Instant::now();
        }
        let sequence = self.tracker.push(entry);
        self.window_events += 1;
        self.unread = self.unread.saturating_sub(1);
        if let Some((_, position)) = &mut self.window {
            *position = entry.outbox_id;
        }
        if self.discarded.contains(&entry.outbox_id) {
            self.tracker.settle(sequence);
            return Ok(());
        }
        match self.lanes.arrive(entry.lane, (sequence, row)) {
            Turn::Send((sequence, row)) => self.send(sequence, &row),
            Turn::Wait => Ok(()),
            Turn::Park((sequence, _)) => {
                self.park(sequence, None);
                Ok(())
            }
        }
    }

    fn send(&mut self, sequence: usize, row: &PgRow) -> Result<(), Error> {
        match self.producer.send(sequence, &Event::of(row)?) {
            Ok(()) => Ok(()),
            Err(refusal) => self.settle(Delivery {
                ticket: sequence,
                result: Err(refusal),
            }),
        }
    }

    fn settle(&mut self, delivery: Delivery) -> Result<(), Error> {
        let Delivery { ticket, result } = delivery;
        let refusal = match result {
            Ok(()) => None,
            Err(Refusal::Event(refusal)) => Some(refusal),
            Err(Refusal::Kafka(refusal)) => return Err(Error::Kafka(refusal)),
        };
        self.last_progress = Instant::now();
        match refusal {
            None => self.report.metrics.published.inc(),
            Some(_) => self.report.metrics.refused.inc(),
        };
        if ticket & RETRY != 0 {
            self.settle_retry(ticket, refusal);
            return Ok(());
        }
        match refusal {
            None => self.acknowledged(ticket),
            Some(refusal) => self.refused(ticket, refusal),
        }
    }

    fn acknowledged(&mut self, sequence: usize) -> Result<(), Error> {
        let Some(entry) = self.tracker.settle(sequence) else {
            return Ok(());
        };
        self.report.metrics.latency.observe(self.age(entry.created_at));
        match self.lanes.acknowledged(entry.lane) {
            Some((next, row)) => self.send(next, &row),
            None => Ok(()),
        }
    }

    fn unsaved(&self) -> bool {
        self.tracker.has_moved() || !self.parking.is_empty() || !self.attempts.is_empty()
    }

    async fn save(&mut self) -> Result<(), Error> {
        let checkpoint = self.tracker.checkpoint();
        self.lease
            .save(&checkpoint, &self.parking, &self.attempts)
            .await?;
        self.tracker.saved();
        self.parking.clear();
        self.attempts.clear();
        self.next_save = Instant::now() + SAVE_INTERVAL;
        self.report.metrics.checkpoints.inc();
        Ok(())
    }

    async fn beat(&mut self, observe: &(impl Fn(Flow<'_>) + Sync)) -> Result<(), Error> {
        let pulse = self.lease.heartbeat().await?;
        self.clock = (pulse.now, Instant::now());
        self.last_id = pulse.last_id;
        self.parked = u64::try_from(pulse.parked).unwrap_or_default();
        if self.producer.is_lost() {
            return Err(Error::Kafka(
                "the client has lost all brokers or failed for good".to_owned(),
            ));
        }
        if self.under_way() > 0 && self.last_progress.elapsed() > STALLED {
            observe(Flow::Stalled(self.producer.problem().as_deref()));
            // A statement that nobody takes rows from would stay open for as long as Kafka is away.
            if !self.has_room() {
                self.stop_reading();
            }
        } else if self.lanes.parked().len() < MAX_PARKED {
            observe(Flow::Flowing);
            self.producer.forget_problem();
        }
        self.report.set_backlog(self.backlog());
        Ok(())
    }

    fn backlog(&self) -> Backlog {
        let retained = self.report.retained();
        let oldest = self.tracker.oldest();
        // What became visible after the window is known by its ids alone, and of aborted transactions, too.
        let younger = match (&self.window, self.highest_found) {
            (None, _) => 0,
            // A window that the relay before left unfinished, not surveyed yet.
            (Some(_), 0) => 1,
            (Some(_), highest) => u64::try_from(self.last_id - highest).unwrap_or_default(),
        };
        let backlog = self.unread + younger + self.tracker.unsettled() as u64;
        Backlog {
            backlog,
            sent: retained.sent(self.last_id, backlog + self.parked),
            oldest_unpublished_seconds: oldest.map_or(0.0, |entry| self.age(entry.created_at)),
            parked: self.parked,
            in_flight: self.under_way(),
            discarded: retained.discarded,
            default_partition_rows: retained.default_partition_rows,
        }
    }

    /// How old something is, in seconds, by PostgreSQL's clock.
    fn age(&self, created_at: i64) -> f64 {
        let (now, at) = self.clock;
        let micros = u64::try_from(now - created_at).unwrap_or_default();
        (Duration::from_micros(micros) + at.elapsed()).as_secs_f64()
    }
}

async fn next_piece(reader: &mut Option<Reader>) -> Result<Piece, Error> {
    match reader {
        Some(reader) => reader.next().await,
        None => std::future::pending().await,
    }
}
