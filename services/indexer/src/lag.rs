//! Consumer lag, and whether Kafka answers at all.
//!
//! Lag is what the group has not committed, as Kafka's own tools count it. It is asked for instead of taken from what
//! was fetched, because fetching pauses just when lag matters most.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use commerce_core::admin::Gate;
use rdkafka::{Offset, TopicPartitionList, consumer::Consumer as _, error::KafkaResult};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    group::{GroupConsumer, list, partitions},
    metrics::Metrics,
    offsets::Partition,
};

const INTERVAL: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(5);

/// An assigned partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PartitionLag {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// Events that are not committed.
    pub(crate) lag: i64,
    /// The offset up to which all is indexed: one that stands still while there is lag tells of a partition that is stuck.
    pub(crate) committed: i64,
}

/// What was last seen. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lag(Arc<Mutex<Vec<PartitionLag>>>);

impl Lag {
    pub(crate) fn get(&self) -> Vec<PartitionLag> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Watches until `stop`.
    pub(crate) async fn watch(
        self,
        consumer: Arc<GroupConsumer>,
        metrics: Metrics,
        kafka: Gate,
        stop: CancellationToken,
    ) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            let consumer = Arc::clone(&consumer);
            let Ok(measured) = tokio::task::spawn_blocking(move || measure(&consumer)).await else {
                continue;
            };
            match measured {
                Ok(lags) => {
                    kafka.pass();
                    self.set(lags, &metrics);
                }
                Err(error) => kafka.fail(format!("reading offsets from Kafka: {error}")),
            }
        }
    }

    fn set(&self, lags: Vec<PartitionLag>, metrics: &Metrics) {
        let partition = |lag: &PartitionLag| Partition::new(lag.topic.clone(), lag.partition);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in last
            .iter()
            .filter(|old| !lags.iter().any(|new| partition(new) == partition(old)))
        {
            metrics.forget_lag(&partition(gone));
        }
        for lag in &lags {
            metrics.set_lag(&partition(lag), lag.lag);
        }
        *last = lags;
    }
}

/// Blocks until Kafka has answered.
fn measure(consumer: &GroupConsumer) -> KafkaResult<Vec<PartitionLag>> {
    let assigned = partitions(&consumer.assignment()?);
    if assigned.is_empty() {
        consumer.fetch_metadata(None, TIMEOUT)?;
        return Ok(Vec::new());
    }
    let committed = consumer.committed_offsets(list(&assigned, None)?, TIMEOUT)?;
    let ends = consumer.offsets_for_times(list(&assigned, Some(Offset::End))?, TIMEOUT)?;
    // What counts where nothing was ever committed.
    let starts = consumer.offsets_for_times(list(&assigned, Some(Offset::Beginning))?, TIMEOUT)?;
    let lag = |partition: Partition| {
        let end = offset(&ends, &partition)?;
        let start = offset(&starts, &partition)?;
        let committed = offset(&committed, &partition).unwrap_or(start).max(start);
        Some(PartitionLag {
            topic: partition.topic,
            partition: partition.number,
            lag: (end - committed).max(0),
            committed,
        })
    };
    Ok(assigned.into_iter().filter_map(lag).collect())
}

fn offset(list: &TopicPartitionList, partition: &Partition) -> Option<i64> {
    match list.find_partition(&partition.topic, partition.number)?.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}
