//! Serving: ports, background tasks, and stopping without losing a request.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use commerce_core::{
    admin::{AdminServer, Readiness},
    trace::Tracer,
};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    cache::Cache,
    config::Config,
    connections::{self, Limits},
    http::{self, Access},
    metrics::{IntakeMetrics, Metrics, SearchMetrics},
    monitor::Monitor,
    openapi,
    orders::{document::Documents, intake::Intake, replay::Replays},
    search::{REQUEST_TIMEOUT, Search},
    state::App,
    wake::Wake,
};

/// How long connections to PostgreSQL may take to be closed.
const CLOSING: Duration = Duration::from_secs(1);

/// A running API.
#[derive(Debug)]
pub struct Server {
    http_address: SocketAddr,
    admin_address: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Server {
    /// Binds both ports and serves until `stop`. Stores may be away: requests that need one are answered with 503.
    pub async fn start(config: Config, stop: CancellationToken) -> anyhow::Result<Self> {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let intake_metrics = IntakeMetrics::new(&mut registry);
        let search_metrics = SearchMetrics::new(&mut registry);
        let readiness = Readiness::default();
        let monitor = Monitor::new(&readiness);
        let pool = config.readers().pool("commerce-api");
        let limits = Limits {
            header_timeout: config.access.header_timeout,
            max_connections: config.access.max_connections,
        };
        let access = Access::new(config.access, &readiness)?;
        let tokens = access.tokens.clone();
        let client = config.elasticsearch.client(REQUEST_TIMEOUT)?;
        let alias = config.elasticsearch.index;
        let cache = Cache::new(&config.redis, config.cache_budget, search_metrics.breaker())
            .context("preparing the Redis client")?;
        let cache = Arc::new(cache);
        let search = Search::new(
            client.clone(),
            alias.clone(),
            cache.clone(),
            config.search_cache,
            search_metrics,
        );
        let wake = Wake::default();
        let options = config.postgres.options.application_name("commerce-api");
        let (intake, committers) = Intake::new(&options, config.group_commit, &wake, intake_metrics);
        let app = Arc::new(App {
            pool: pool.clone(),
            intake,
            replays: Replays::new(cache, config.idempotency_ttl),
            documents: Documents::new(client.clone(), alias.clone()),
            wake: wake.clone(),
            search: Arc::new(search),
            access,
            metrics,
            tracer: Tracer::new(&config.traces)?,
            openapi: openapi::document(tokens.is_some())
                .to_json()
                .context("writing the OpenAPI document")?
                .into(),
        });

        let address = config.http_address;
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listening on HTTP_ADDR {address}"))?;
        let http_address = listener.local_addr().context("asking for the HTTP port")?;
        let address = config.admin_address;
        let admin = AdminServer::bind(address, readiness, registry)
            .await
            .with_context(|| format!("listening on ADMIN_ADDR {address}"))?;
        let admin_address = admin.local_addr().context("asking for the admin port")?;

        // The admin port and the background tasks outlive the last request.
        let drained = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let background = drained.clone();
        tasks.spawn(async move { admin.serve(background).await.context("serving the admin port") });
        let background = drained.clone();
        let (watched, redis) = (app.clone(), config.redis);
        tasks.spawn(async move {
            let refresh = async {
                if let Some(tokens) = tokens {
                    background.run_until_cancelled(tokens.keep_fresh()).await;
                }
            };
            tokio::join!(
                monitor.run(watched, client, alias, redis, background.clone()),
                committers.run(background.clone()),
                wake.run(pool, background.clone()),
                refresh,
            );
            Ok(())
        });
        let (router, stopping) = (http::router(app.clone()), stop.clone());
        tasks.spawn(async move {
            let _drained = drained.drop_guard();
            connections::serve(listener, router, limits, stopping).await;
            // Where PostgreSQL is away, the pool does not give up at once.
            let _ = timeout(CLOSING, app.pool.close()).await;
            app.tracer.clone().shut_down().await;
            Ok(())
        });
        tracing::info!(%http_address, %admin_address, "serving");
        Ok(Self {
            http_address,
            admin_address,
            stop,
            tasks,
        })
    }

    /// Where the API listens; with port 0, the port that was chosen.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Where the admin port listens.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Waits until it has stopped: after its token was cancelled and requests have ended, or because a part failed.
    pub async fn stopped(mut self) -> anyhow::Result<()> {
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a task of the server panicked")??;
        }
        tracing::info!("stopped");
        Ok(())
    }

    /// Stops it and waits until it has.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.stopped().await
    }
}
