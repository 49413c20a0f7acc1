//! What applying a pipeline would change, in the cluster and in the stores. Nothing is changed to find out.
//!
//! The API server is asked to apply the pipeline by a dry run, which fills in defaults and refuses what is wrong in its own
//! words. Then the reconcile itself runs against a [`rehearsal`]: so a plan can't differ from what the operator would do.

pub mod difference;
pub mod document;
pub mod print;
pub mod rehearsal;
pub mod stores;

use std::{net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use kube::{
    Client,
    runtime::events::{Recorder, Reporter},
};
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::time::Instant;

use self::{
    difference::Change,
    document::Document,
    rehearsal::Rehearsal,
    stores::{StoreChange, Survey, Unchanged},
};
use crate::{
    context::{Context, Settings},
    leader::Tenure,
    metrics::Metrics,
    reconcile::{
        self,
        error::{Error as Failure, Stop},
        names::MANAGER,
        readiness::Readiness,
        services::{IndexerStatus, RelayStatus, Services},
        status::{Finding, Findings},
    },
};

/// More passes than any pipeline takes to come to rest where everything goes well.
const PASSES: usize = 50;
/// Longer than a plan takes.
const LONGEST: Duration = Duration::from_hours(1);

/// What would change.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Plan {
    pub namespace: String,
    pub name: String,
    /// In the cluster: the pipeline, then what the operator makes of it.
    pub changes: Vec<Change>,
    pub stores: Vec<StoreChange>,
    /// What could not be looked at, and what an apply would wait for.
    pub notes: Vec<String>,
    /// Why the operator would not get to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stops: Option<String>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Document(String),
    #[error("the CommercePipeline {name} is refused: {problem}")]
    Refused { name: String, problem: String },
    #[error(
        "the cluster has no CommercePipeline definition, or no namespace {0}: install the operator's chart, or create the namespace"
    )]
    Nowhere(String),
    #[error("{doing}: {source}")]
    Kubernetes { doing: String, source: kube::Error },
    #[error(transparent)]
    Rehearsal(#[from] Failure),
}

impl Plan {
    /// Nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.stores.is_empty()
    }
}

/// The plan of one document, for a pipeline in `namespace` where the document names none.
pub async fn plan(
    client: &Client,
    survey: Arc<dyn Survey>,
    document: &Document,
    namespace: &str,
) -> Result<Plan, Error> {
    let namespace = document.namespace.as_deref().unwrap_or(namespace);
    let mut plan = Plan {
        namespace: namespace.to_owned(),
        name: document.name.clone(),
        ..Plan::default()
    };
    let (before, after) = document.dry_run(client, namespace).await?;
    let path = document.path(namespace);
    plan.changes
        .extend(Change::between(&path, before.as_ref(), Some(&after)));
    let resource: crate::crd::CommercePipeline = serde_json::from_value(after).map_err(|error| {
        Error::Document(format!(
            "reading what the API server made of {}: {error}",
            document.name
        ))
    })?;
    if resource.metadata.deletion_timestamp.is_some() {
        plan.notes
            .push("it is being deleted: apply it again when it is gone".to_owned());
        return Ok(plan);
    }
    if resource.spec.suspend {
        plan.notes
            .push("it is suspended: nothing else would change".to_owned());
        return Ok(plan);
    }

    let rehearsal = Rehearsal::new(client.clone());
    let unchanged = Arc::new(Unchanged::new(survey));
    let context = context(rehearsal.client(namespace), unchanged.clone());
    let mut ended = Ok(());
    let mut drift = None;
    for _ in 0..PASSES {
        let steps = rehearsal.steps();
        let mut findings = Findings::default();
        ended = Box::pin(reconcile::rehearse(&resource, &context, &mut findings)).await;
        drift = findings.drift.or(drift);
        if rehearsal.steps() == steps {
            break;
        }
    }
    match ended {
        Ok(()) => {}
        Err(Stop::Waiting { message, .. }) => plan.notes.push(message),
        Err(Stop::Failed(error @ (Failure::FetchFailed { .. } | Failure::ApplyFailed { .. }))) => {
            return Err(error.into());
        }
        Err(Stop::Failed(error)) => plan.stops = Some(error.to_string()),
    }
    let left = drift.filter(Finding::is_true).map(|left| left.message);
    plan.notes
        .extend(left.map(|left| format!("would stay as it is: {left}")));
    plan.notes.extend(rehearsal.unread());
    plan.changes.extend(rehearsal.changes());
    let (found, unseen) = unchanged.found();
    plan.stores = found;
    plan.notes.extend(unseen);
    Ok(plan)
}

fn context(client: Client, stores: Arc<Unchanged>) -> Context {
    let reporter = Reporter {
        controller: MANAGER.to_owned(),
        instance: None,
    };
    let tenure = Tenure::default();
    // Whoever works meanwhile is not in the way of one that writes nothing.
    tenure.until(Some(Instant::now() + LONGEST));
    Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        namespaces: Vec::new(),
        tenure,
        stores,
        services: Arc::new(NotAsked),
        settings: Settings {
            probe_interval: Duration::from_secs(30),
            drift_interval: Duration::from_mins(5),
        },
        memory: Arc::default(),
        metrics: Metrics::new(&mut Registry::default()),
    }
}

/// Whether orders flow changes nothing about a plan.
#[derive(Debug)]
struct NotAsked;

#[async_trait]
impl Services for NotAsked {
    async fn relay(&self, _: IpAddr) -> Result<RelayStatus, String> {
        Err("not asked by a plan".to_owned())
    }

    async fn indexer(&self, _: IpAddr) -> Result<IndexerStatus, String> {
        Err("not asked by a plan".to_owned())
    }

    async fn readiness(&self, _: IpAddr) -> Result<Readiness, String> {
        Err("not asked by a plan".to_owned())
    }
}
