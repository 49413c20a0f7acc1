//! Standing by, becoming active, and starting again after whatever went wrong.

use std::{io, mem, net::SocketAddr, time::Duration};

use commerce_core::{
    admin::{AdminServer, Gate, Need, Readiness},
    event::{EventType, WAKE_CHANNEL},
    postgres::PostgresConfig,
    topics,
    trace::Tracer,
};
use prometheus_client::registry::Registry;
use sqlx::PgPool;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Config, Error, history,
    lease::{self, Candidate, Claim, Lease},
    partitions,
    pump::{Flow, Pump},
    report::{Report, State},
    tracker::Checkpoint,
    wake::Wake,
};

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A standby looks at the lease at least this often.
const STANDBY: Duration = Duration::from_secs(1);
/// How often to look whether Kafka is there, when it was and when it was not.
const KAFKA_WELL: Duration = Duration::from_secs(30);
const KAFKA_AWAY: Duration = Duration::from_secs(2);

/// A relay with its admin port bound.
#[derive(Debug)]
pub struct Relay {
    config: Config,
    holder: String,
    admin: AdminServer,
    report: Report,
    postgres: Gate,
    kafka: Gate,
    events: Gate,
    pool: PgPool,
    tracer: Tracer,
}

impl Relay {
    /// Binds the admin port; connects to nothing yet.
    pub async fn bind(config: Config) -> io::Result<Self> {
        let mut registry = Registry::default();
        let report = Report::new(&mut registry);
        let readiness = Readiness::default();
        let gate = |name| readiness.gate(name, Need::Always);
        let (postgres, kafka, events) = (gate("postgres"), gate("kafka"), gate("events"));
        let shown = report.clone();
        let status = move || serde_json::to_value(shown.status()).unwrap_or_default();
        let admin = AdminServer::bind(config.admin_addr, readiness, registry)
            .await?
            .with_status(status);
        // The host's name is the pod's, for people; the rest makes it this process's own.
        let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
        let holder = format!("{}/{}", host.trim(), Uuid::new_v4());
        let pool = PostgresConfig {
            pool_size: 1,
            ..config.postgres.clone()
        }
        .pool("relay-listener");
        let tracer = Tracer::new(&config.traces).map_err(io::Error::other)?;
        Ok(Self {
            config,
            holder,
            admin,
            report,
            postgres,
            kafka,
            events,
            pool,
            tracer,
        })
    }

    /// Where the admin port listens.
    pub fn admin_addr(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Runs until `stop`, then publishes what it has begun to and hands over.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        let Self {
            config,
            holder,
            admin,
            report,
            postgres,
            kafka,
            events,
            pool,
            tracer,
        } = self;
        let run = Run {
            config,
            holder,
            report,
            postgres,
            kafka,
            events,
            pool,
            tracer: tracer.clone(),
        };
        // The admin port answers until the last event is drained.
        let drained = CancellationToken::new();
        let work = async {
            tokio::select! {
                () = run.supervise(&stop) => {}
                () = run.watch_kafka() => {}
            }
            tracer.shut_down().await;
            drained.cancel();
            Ok(())
        };
        tokio::try_join!(work, admin.serve(drained.clone())).map(drop)
    }
}

struct Run {
    config: Config,
    holder: String,
    report: Report,
    postgres: Gate,
    kafka: Gate,
    events: Gate,
    pool: PgPool,
    tracer: Tracer,
}

impl Run {
    async fn supervise(&self, stop: &CancellationToken) {
        let mut backoff = FIRST_BACKOFF;
        while !stop.is_cancelled() {
            let began = tokio::time::Instant::now();
            let Err(error) = self.term(stop).await else {
                continue;
            };
            match &error {
                Error::History(_) => self.report.set_blocked(error.to_string()),
                _ => self.report.set_state(State::Waiting),
            }
            match &error {
                Error::Postgres { .. } => self.postgres.fail(error.to_string()),
                Error::Kafka(_) | Error::TooManyParked { .. } | Error::Invariant(_) | Error::History(_) => {
                    self.events.fail(error.to_string());
                }
                Error::LeaseLost => tracing::info!("lost the lease to another relay"),
            }
            if began.elapsed() > MAX_BACKOFF {
                backoff = FIRST_BACKOFF;
            }
            tokio::select! { () = sleep(backoff) => {}, () = stop.cancelled() => {} }
            backoff = (2 * backoff).min(MAX_BACKOFF);
        }
    }

    /// Stands by, then is active, until `stop` or an error.
    async fn term(&self, stop: &CancellationToken) -> Result<(), Error> {
        let Some((mut lease, checkpoint)) = self.stand_by(stop).await? else {
            return Ok(());
        };
        let mut active = false;
        let ended = match history::examine(&mut lease, &self.config, stop).await {
            Ok(()) if stop.is_cancelled() => Ok(()),
            Ok(()) => {
                active = true;
                tracing::info!(?checkpoint, "active");
                self.report.metrics.terms.inc();
                self.publish(&mut lease, checkpoint, stop).await
            }
            Err(error) => Err(error),
        };
        if !matches!(ended, Err(Error::LeaseLost | Error::Postgres { .. })) {
            lease.release().await?;
            if active {
                tracing::info!("released the lease");
            }
        }
        ended
    }

    async fn publish(
        &self,
        lease: &mut Lease,
        checkpoint: Checkpoint,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let wake = Wake::on(self.pool.clone(), WAKE_CHANNEL);
        let mut pump = Pump::start(&self.config, &self.report, &self.tracer, lease, checkpoint).await?;
        let observe = |flow: Flow<'_>| match flow {
            Flow::Flowing => self.events.pass(),
            Flow::Stalled(None) => self.events.fail("Kafka acknowledges nothing"),
            Flow::Stalled(Some(problem)) => {
                self.events.fail(format!("Kafka acknowledges nothing: {problem}"));
            }
        };
        let ended = tokio::select! {
            ended = pump.run(&wake, stop, &observe) => ended,
            () = partitions::keep(&self.config, &self.report) => Ok(()),
        };
        let saved = pump.finish().await;
        ended.and(saved)
    }

    /// Waits for the lease; `None` when stopped.
    async fn stand_by(&self, stop: &CancellationToken) -> Result<Option<(Lease, Checkpoint)>, Error> {
        let mut candidate = Candidate::connect(&self.config.postgres).await?;
        let mut released = None;
        // Another relay that holds the lease for a moment is likely to be stopped by the same.
        let mut blocked = self.report.status().blocked.is_some();
        loop {
            let remaining = match candidate.claim(&self.holder).await? {
                Claim::Held(lease, checkpoint) => {
                    self.postgres.pass();
                    return Ok(Some((lease, checkpoint)));
                }
                Claim::Taken(same, remaining) => {
                    candidate = same;
                    remaining
                }
            };
            self.postgres.pass();
            if !mem::take(&mut blocked) {
                self.events.pass();
                self.report.set_state(State::Standby);
            }
            let released = released.get_or_insert_with(|| Wake::on(self.pool.clone(), lease::CHANNEL));
            tokio::select! {
                // Whether it is time or not, the next claim tells.
                _ = timeout(remaining.min(STANDBY), released.woken()) => {}
                () = stop.cancelled() => return Ok(None),
            }
        }
    }

    /// Keeps the readiness of Kafka up to date.
    async fn watch_kafka(&self) {
        loop {
            let found = topics::partitions(&self.config.kafka).await;
            let well = match &found {
                Err(error) => Err(error.to_string()),
                Ok(found) => EventType::ALL
                    .map(|event| self.config.kafka.topic(event.topic()))
                    .into_iter()
                    .find(|topic| !found.contains_key(topic))
                    .map_or(Ok(()), |topic| Err(format!("the topic {topic} does not exist"))),
            };
            self.kafka.report(&well);
            sleep(if well.is_ok() { KAFKA_WELL } else { KAFKA_AWAY }).await;
        }
    }
}
