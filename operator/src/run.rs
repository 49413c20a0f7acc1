//! The operator as a program: waits for the Lease, works until it is asked to stop, and gives the Lease back. A replica that
//! loses the Lease ends, so that two never work at once.

use std::sync::Arc;

use anyhow::Context as _;
use commerce_core::{
    admin::{AdminServer, Need, Readiness},
    config::Env,
    shutdown, telemetry,
};
use kube::{
    Client, Config,
    client::ClientBuilder,
    runtime::events::{Recorder, Reporter},
};
use prometheus_client::registry::Registry;

use crate::{
    config::OperatorConfig,
    context::Context,
    controller,
    leader::{Candidate, Timing},
    metrics::{CountRequests, Metrics},
    reconcile::{
        names::MANAGER,
        services::{ADMIN_PORT, Http},
        stores::Remote,
    },
};

/// Runs the operator until the process is asked to stop.
pub async fn run() -> anyhow::Result<()> {
    let config = OperatorConfig::from_env(Env::from_process())?;
    telemetry::init(&config.log);
    let stop = shutdown::on_signal().context("listening for signals")?;
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let client = client(&metrics)
        .await
        .context("finding out how to reach the Kubernetes API")?;
    let readiness = Readiness::default();
    let reached = readiness.gate("kubernetes", Need::Always);
    let admin = AdminServer::bind(config.admin, readiness, registry)
        .await
        .with_context(|| format!("listening on ADMIN_ADDR {}", config.admin))?;
    let served = tokio::spawn(admin.serve(stop.child_token()));

    let namespace = config
        .namespace
        .clone()
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let mut candidate = Candidate::new(
        client.clone(),
        &namespace,
        config.identity.clone(),
        Timing::default(),
    );
    tokio::select! {
        () = candidate.win(|answer| reached.report(answer)) => {}
        () = stop.cancelled() => return Ok(()),
    }
    tracing::info!(identity = config.identity, namespace, "this replica works");
    metrics.leader.set(1);

    let reporter = Reporter {
        controller: MANAGER.to_owned(),
        instance: Some(config.identity.clone()),
    };
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        namespaces: config.watch_namespaces.clone(),
        tenure: candidate.tenure(),
        stores: Arc::new(Remote),
        services: Arc::new(Http::new(ADMIN_PORT).context("preparing to ask the services")?),
        settings: config.settings,
        memory: Arc::default(),
        metrics: metrics.clone(),
    });
    let working = controller::run(context, config.concurrency, stop.clone());
    tokio::select! {
        () = working => {}
        () = candidate.keep() => anyhow::bail!("lost the Lease; another replica goes on"),
    }
    metrics.leader.set(0);
    if let Err(error) = candidate.release().await {
        tracing::warn!(%error, "giving the Lease back; another replica takes it when it has run out");
    }
    served
        .await
        .context("serving the admin port")?
        .context("serving the admin port")
}

async fn client(metrics: &Metrics) -> kube::Result<Client> {
    let config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    let builder = ClientBuilder::try_from(config)?;
    Ok(builder
        .with_layer(&CountRequests(metrics.requests.clone()))
        .build())
}
