//! The loop that fetches records, cuts batches and keeps the books on them: a single task owns all of this state.
//!
//! Backpressure: so many bulks at once and one batch in the making, no more. While Elasticsearch does not keep up, nothing
//! is fetched; when that lasts, partitions are paused, so that the group sees a member that is alive.

use std::{sync::Arc, time::Duration};

use commerce_core::{
    event::header,
    trace::{Role, Span, Tracer},
};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use rdkafka::{
    Message as _,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers as _},
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    BulkLimits,
    batch::{Batch, BatchId},
    group::{Change, Commit, Group, GroupConsumer},
    offsets::{Offsets, Partition},
    sizing::Sizing,
    writer::{Writer, Written},
};

/// Bulks at once. One keeps Elasticsearch busy while the next is made; more than a few only wait there instead of here.
const BULKS: usize = 4;
/// How long nothing is fetched before partitions are paused; pausing throws away what librdkafka has fetched ahead.
const PATIENCE: Duration = Duration::from_millis(500);
const COMMIT_INTERVAL: Duration = Duration::from_millis(500);
/// How long a partition that goes to another member is held back to settle what is on its way. The other member repeats
/// the rest.
const REVOKE_BOUND: Duration = Duration::from_secs(5);
/// The same when this process ends; Kubernetes gives it 30 s.
const DRAIN_BOUND: Duration = Duration::from_secs(15);

/// Why the pipeline can't go on. Stores that are away are no reason.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    #[error("consuming order events: {0}")]
    Consumer(KafkaError),
    #[error("the task that refreshes the index has ended")]
    Refresher,
}

/// `'c` is for how long there is the consumer, to which the records in memory belong.
pub(crate) struct Pipeline<'c> {
    /// As of now: the number of documents follows `sizing`.
    limits: BulkLimits,
    sizing: Arc<Sizing>,
    consumer: &'c GroupConsumer,
    group: Group,
    offsets: Offsets,
    batch: Batch<'c>,
    next_batch: BatchId,
    /// Each gives back the body that it has sent, or `None` when there is nobody to refresh the index.
    bulks: FuturesUnordered<BoxFuture<'c, Option<Vec<u8>>>>,
    /// Bodies to write the next batches into: memory of that size is costly to get, as the kernel clears it.
    bodies: Vec<Vec<u8>>,
    writer: Arc<Writer>,
    written: mpsc::Sender<Written>,
    tracer: Tracer,
    /// Since when the batch is full and no bulk is free.
    stalled_since: Option<Instant>,
    paused: bool,
    revoke_until: Option<Instant>,
    drain_until: Option<Instant>,
    /// One at a time, so that none overtakes another.
    commit: Option<Commit>,
    /// The last commit has failed.
    commit_failed: bool,
    last_problem: Option<String>,
}

impl<'c> Pipeline<'c> {
    pub(crate) fn new(
        (limits, sizing): (BulkLimits, Arc<Sizing>),
        consumer: &'c GroupConsumer,
        group: Group,
        writer: Writer,
        written: mpsc::Sender<Written>,
        tracer: Tracer,
    ) -> Self {
        Self {
            limits,
            sizing,
            consumer,
            group,
            offsets: Offsets::default(),
            batch: Batch::new(0, Vec::new()),
            next_batch: 1,
            bulks: FuturesUnordered::new(),
            bodies: Vec::new(),
            writer: Arc::new(writer),
            written,
            tracer,
            stalled_since: None,
            paused: false,
            revoke_until: None,
            drain_until: None,
            commit: None,
            commit_failed: false,
            last_problem: None,
        }
    }

    /// Runs until `stop`, then settles and commits what it can.
    pub(crate) async fn run(
        mut self,
        mut settled: mpsc::UnboundedReceiver<BatchId>,
        stop: CancellationToken,
    ) -> Result<Group, PipelineError> {
        let mut messages = self.consumer.stream();
        let mut commits = interval(COMMIT_INTERVAL);
        commits.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.is_drained() {
            self.limits.max_documents = self.sizing.documents();
            self.dispatch_when_due();
            self.finish_revoking_when_due().await?;
            self.pause_or_resume()?;
            let may_fetch = self.stalled_since.is_none() || self.paused;
            let wake = self.wake();
            tokio::select! {
                biased;
                Some(change) = self.group.changes.recv() => self.apply(change)?,
                batch = settled.recv() => self.offsets.settle(batch.ok_or(PipelineError::Refresher)?),
                Some(body) = self.bulks.next() => self.bodies.push(body.ok_or(PipelineError::Refresher)?),
                () = stop.cancelled(), if self.drain_until.is_none() => {
                    self.drain_until = Some(Instant::now() + DRAIN_BOUND);
                    self.group.pause(&self.offsets.partitions()).map_err(PipelineError::Consumer)?;
                }
                Some(result) = answer(&mut self.commit) => self.committed(result),
                _ = commits.tick(), if self.commit.is_none() => self.start_commit(),
                message = messages.next(), if may_fetch => {
                    self.take(message)?;
                    while !self.batch.is_full(&self.limits) {
                        let Some(message) = messages.next().now_or_never() else { break };
                        self.take(message)?;
                    }
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
        if !self.offsets.all_settled() || !self.batch.is_empty() {
            tracing::warn!(
                "stopping before everything was settled; the next owner of the partitions repeats it"
            );
        }
        self.commit(&self.offsets.partitions()).await;
        Ok(self.group)
    }

    fn take(&mut self, message: Option<KafkaResult<BorrowedMessage<'c>>>) -> Result<(), PipelineError> {
        match message {
            Some(Ok(message)) => {
                self.last_problem = None;
                let (topic, partition) = (message.topic(), message.partition());
                let leaving = self
                    .group
                    .revoking()
                    .iter()
                    .any(|revoked| revoked.is(topic, partition));
                // What this batch has something of already is ours.
                let ours = self.batch.has(topic, partition) || self.offsets.owns(topic, partition);
                if self.drain_until.is_none() && !leaving && ours {
                    let span = self.span(&message);
                    self.batch.add(message, span);
                }
                Ok(())
            }
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => Err(PipelineError::Consumer(error)),
            Some(Err(error)) if is_about_the_connection(&error) => {
                tracing::debug!(%error, "fetching order events");
                Ok(())
            }
            Some(Err(error)) => {
                let problem = error.to_string();
                if self.last_problem.as_ref() != Some(&problem) {
                    tracing::warn!(%error, "fetching order events; librdkafka goes on by itself");
                    self.last_problem = Some(problem);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Goes on with the trace of the event, if it is in one that is sampled.
    fn span(&self, message: &BorrowedMessage<'_>) -> Span {
        if !self.tracer.is_on() {
            return Span::default();
        }
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let traceparent = headers
            .filter(|header| header.key == header::TRACEPARENT)
            .find_map(|header| std::str::from_utf8(header.value?).ok());
        let topic = message.topic();
        let mut span = self
            .tracer
            .event(Role::Consumer, traceparent, || format!("process {topic}"));
        if span.is_recording() {
            span.set("messaging.system", "kafka");
            span.set("messaging.operation.type", "process");
            span.set("messaging.destination.name", topic.to_owned());
            span.set(
                "messaging.destination.partition.id",
                message.partition().to_string(),
            );
            span.set("messaging.kafka.offset", message.offset());
        }
        span
    }

    fn apply(&mut self, change: Change) -> Result<(), PipelineError> {
        match change {
            Change::Assign(partitions) => {
                if !partitions.is_empty() {
                    tracing::info!(partitions = %names(&partitions), "partitions assigned");
                }
                self.offsets.assign(&partitions);
                self.group.assign(&partitions).map_err(PipelineError::Consumer)?;
                if self.paused {
                    self.group.pause(&partitions).map_err(PipelineError::Consumer)?;
                }
            }
            Change::Revoke(partitions) => {
                tracing::info!(partitions = %names(&partitions), "partitions revoked");
                self.group
                    .start_revoking(partitions)
                    .map_err(PipelineError::Consumer)?;
                self.revoke_until = Some(Instant::now() + REVOKE_BOUND);
            }
        }
        Ok(())
    }

    fn dispatch_when_due(&mut self) {
        if self.batch.is_empty() || self.bulks.len() >= BULKS {
            return;
        }
        // With nothing on its way, waiting for more would only make what there is later.
        let full = self.batch.is_full(&self.limits);
        let at_once = self.bulks.is_empty()
            || full
            || self.batch.has_any_of(self.group.revoking())
            || self.drain_until.is_some();
        if at_once
            || self
                .batch
                .due(&self.limits)
                .is_some_and(|due| due <= Instant::now())
        {
            let mut body = self.batch.sort(self.bodies.pop().unwrap_or_default());
            body.clear();
            let next = Batch::new(self.next_batch, body);
            let mut batch = std::mem::replace(&mut self.batch, next);
            batch.full = full;
            self.next_batch += 1;
            self.offsets.track(batch.id, &batch.next_offsets);
            let (writer, written) = (Arc::clone(&self.writer), self.written.clone());
            let bulk = async move {
                let (result, body) = writer.write(batch).await;
                written.send(result).await.ok().map(|()| body)
            };
            self.bulks.push(bulk.boxed());
        }
    }

    /// Gives revoked partitions back when all of them is settled, or time is up.
    async fn finish_revoking_when_due(&mut self) -> Result<(), PipelineError> {
        let Some(until) = self.revoke_until else {
            return Ok(());
        };
        let partitions = self.group.revoking().to_vec();
        let settled = self.offsets.are_settled(&partitions) && !self.batch.has_any_of(&partitions);
        // A member that was thrown out of the group can't commit any more.
        let lost = rdkafka::consumer::Consumer::assignment_lost(&*self.group.consumer);
        if !settled && !lost && Instant::now() < until {
            return Ok(());
        }
        if !lost {
            self.commit(&partitions).await;
        }
        self.revoke_until = None;
        self.batch.disown(&partitions);
        self.offsets.release(&partitions);
        self.group.finish_revoking().map_err(PipelineError::Consumer)
    }

    fn pause_or_resume(&mut self) -> Result<(), PipelineError> {
        if !self.batch.is_full(&self.limits) || self.bulks.len() < BULKS {
            self.stalled_since = None;
            if self.paused {
                self.paused = false;
                let mut partitions = self.offsets.partitions();
                partitions.retain(|partition| !self.group.revoking().contains(partition));
                self.group.resume(&partitions).map_err(PipelineError::Consumer)?;
            }
        } else if self.stalled_since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE && !self.paused {
            self.paused = true;
            self.group
                .pause(&self.offsets.partitions())
                .map_err(PipelineError::Consumer)?;
        }
        Ok(())
    }

    /// When there is something to do even if nothing happens.
    fn wake(&self) -> Option<Instant> {
        let batch = self.batch.due(&self.limits).filter(|_| self.bulks.len() < BULKS);
        let pause = self
            .stalled_since
            .filter(|_| !self.paused)
            .map(|since| since + PATIENCE);
        [batch, pause, self.revoke_until, self.drain_until]
            .into_iter()
            .flatten()
            .min()
    }

    fn is_drained(&self) -> bool {
        let settled = || self.batch.is_empty() && self.bulks.is_empty() && self.offsets.all_settled();
        self.drain_until
            .is_some_and(|until| settled() || until <= Instant::now())
    }

    fn start_commit(&mut self) {
        let progress = self.offsets.take_progress();
        if progress.is_empty() {
            return;
        }
        match self.group.commit(&progress) {
            Ok(commit) => self.commit = Some(commit),
            Err(error) => self.committed(Err(error)),
        }
    }

    fn committed(&mut self, result: KafkaResult<()>) {
        self.commit = None;
        let failed_before = std::mem::replace(&mut self.commit_failed, result.is_err());
        if let Err(error) = result {
            if !failed_before {
                tracing::warn!(%error, "committing offsets; trying again until it succeeds");
            }
            self.offsets.untake();
        }
    }

    /// Commits what is settled of these partitions, after what is being committed already, and waits for the answer.
    async fn commit(&mut self, partitions: &[Partition]) {
        if let Some(result) = answer(&mut self.commit).await {
            self.committed(result);
        }
        let settled = self.offsets.settled(partitions);
        if settled.is_empty() {
            return;
        }
        let result = match self.group.commit(&settled) {
            Ok(mut commit) => commit.answer().await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::warn!(%error, "committing offsets of partitions that are given back; their next owner repeats work");
        }
    }
}

/// The answer to the commit, if there is one.
async fn answer(commit: &mut Option<Commit>) -> Option<KafkaResult<()>> {
    Some(commit.as_mut()?.answer().await)
}

/// The readiness check says these, better; librdkafka reconnects by itself.
fn is_about_the_connection(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut, Resolve};
    let code = error.rdkafka_error_code();
    matches!(
        code,
        Some(AllBrokersDown | BrokerTransportFailure | OperationTimedOut | Resolve)
    )
}

fn names(partitions: &[Partition]) -> String {
    let names: Vec<_> = partitions.iter().map(ToString::to_string).collect();
    names.join(" ")
}
