//! Puts the parts together and runs them.

use std::{net::SocketAddr, sync::Arc};

use commerce_core::{
    admin::{AdminServer, Gate, Need, Readiness},
    elasticsearch, trace,
    trace::Tracer,
};
use prometheus_client::registry::Registry;
use rdkafka::error::KafkaError;
use redis::RedisError;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    bulk::BulkClient,
    dead_letters::DeadLetters,
    group::Group,
    invalidation::Invalidation,
    lag::Lag,
    metrics::Metrics,
    pipeline::{Pipeline, PipelineError},
    refresh::Refresher,
    sizing::Sizing,
    startup,
    target::Target,
    writer::Writer,
};

/// So many batches may wait for a refresh; then bulks wait, too.
const UNREFRESHED_BATCHES: usize = 64;

/// Why an indexer can't start or go on. A store that is away is no reason.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listening on ADMIN_ADDR {address}: {source}")]
    Admin {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("preparing the Kafka client: {0}")]
    Kafka(#[from] KafkaError),
    #[error("preparing the Elasticsearch client: {0}")]
    Elasticsearch(#[from] elasticsearch::Error),
    #[error("preparing the Redis client: {0}")]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Traces(#[from] trace::Error),
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    #[error(
        "a Kafka client has lost all brokers or failed for good, and can't mend that by itself; a new start can"
    )]
    ClientLost,
}

/// An indexer whose admin port is open.
#[derive(Debug)]
pub struct Indexer {
    config: Config,
    admin: AdminServer,
    metrics: Metrics,
    lag: Lag,
    gates: Gates,
}

/// It serves nobody, so readiness only tells a rollout whether to go on, and it should where the stores could be reached
/// once: a store that goes away later is no fault of this version. The checks say that it is away all the same.
#[derive(Debug, Clone)]
pub(crate) struct Gates {
    pub(crate) kafka: Gate,
    pub(crate) elasticsearch: Gate,
    pub(crate) redis: Gate,
    /// Not part of `kafka`: events may well be read while these can't be written.
    pub(crate) dead_letters: Gate,
}

impl Indexer {
    /// Opens the admin port.
    pub async fn bind(config: Config) -> Result<Self, Error> {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let lag = Lag::default();
        let readiness = Readiness::default();
        let gates = Gates {
            kafka: readiness.gate("kafka", Need::ToStart),
            elasticsearch: readiness.gate("elasticsearch", Need::ToStart),
            redis: readiness.gate("redis", Need::Never),
            dead_letters: readiness.gate("dead-letters", Need::Never),
        };
        let address = config.admin_addr;
        let admin = AdminServer::bind(address, readiness, registry)
            .await
            .map_err(|source| Error::Admin { address, source })?
            .with_status({
                let (lag, metrics) = (lag.clone(), metrics.clone());
                move || status(&lag, &metrics)
            });
        Ok(Self {
            config,
            admin,
            metrics,
            lag,
            gates,
        })
    }

    /// Where the admin port is.
    pub fn admin_addr(&self) -> std::io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Indexes until `stop`, then drains.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let Self {
            config,
            admin,
            metrics,
            lag,
            gates,
        } = self;
        let tracer = Tracer::new(&config.traces)?;
        // All tasks end with this set, and so with this call.
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(error) = admin.serve(CancellationToken::new()).await {
                tracing::error!(%error, "the admin port has failed");
            }
        });
        let stores = async {
            startup::wait_for_alias(&config.elasticsearch, &gates.elasticsearch).await?;
            startup::wait_for_topics(&config.kafka, &gates).await;
            Ok::<_, Error>(())
        };
        tokio::select! {
            reached = stores => reached?,
            () = stop.cancelled() => return Ok(()),
        }

        let invalidation = Invalidation::new(&config.redis, gates.redis, metrics.clone())?;
        let target = Arc::new(Target::new(&config.elasticsearch)?);
        let refresher = Refresher::new(
            &config.elasticsearch,
            Arc::clone(&target),
            invalidation,
            metrics.clone(),
            gates.elasticsearch.clone(),
        )?;
        let dead_letters = DeadLetters::new(&config.kafka, gates.dead_letters);
        let letters = dead_letters.clone();
        let sizing = Arc::new(Sizing::new(config.bulk.max_documents));
        let writer = Writer {
            bulk: BulkClient::new(&config.elasticsearch)?,
            target,
            dead_letters,
            metrics: metrics.clone(),
            elasticsearch: gates.elasticsearch,
            sizing: Arc::clone(&sizing),
        };
        let (written, to_refresh) = mpsc::channel(UNREFRESHED_BATCHES);
        let (searchable, settled) = mpsc::unbounded_channel();
        tasks.spawn(refresher.run(to_refresh, searchable));

        let group = Group::join(&config.kafka, &config.group_id)?;
        tasks.spawn(lag.watch(group.consumer.clone(), metrics, gates.kafka, stop.clone()));
        let health = Arc::clone(&group.health);
        let consumer = Arc::clone(&group.consumer);
        let pipeline = Pipeline::new(
            (config.bulk, sizing),
            &consumer,
            group,
            writer,
            written,
            tracer.clone(),
        );
        let group = tokio::select! {
            ended = pipeline.run(settled, stop) => ended?,
            () = health.lost() => return Err(Error::ClientLost),
            () = letters.lost() => return Err(Error::ClientLost),
        };
        drop(consumer);
        group.leave().await;
        tracer.shut_down().await;
        tracing::info!("drained");
        Ok(())
    }
}

fn status(lag: &Lag, metrics: &Metrics) -> Value {
    let partitions = lag.get();
    let total: i64 = partitions.iter().map(|partition| partition.lag).sum();
    json!({"lag": total, "partitions": partitions, "freshness": metrics.freshness()})
}
