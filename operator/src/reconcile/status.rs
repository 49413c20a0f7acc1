//! Last station: what was found, as conditions that a person can act on. Pure: the previous status and the findings give the
//! next status, and where nothing changed the two are equal, so nothing is written.

use commerce_core::drift::Difference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    error::{Error, Stop},
    flow::{Figures, Flow},
    health::Health,
    kinds::{Kind, Served},
    names::{Component, MANAGER},
};
use crate::crd::{
    CommercePipeline, CommercePipelineStatus, ComponentStatus, DeletionStatus, IndexStatus, TopicStatus,
};

/// Condition types.
pub const READY: &str = "Ready";
pub const STORES: &str = "StoresReachable";
pub const SCHEMA: &str = "SchemaReady";
pub const TOPICS: &str = "TopicsReady";
pub const INDEX: &str = "IndexReady";
pub const FLOWING: &str = "Flowing";
pub const DRIFT: &str = "DriftDetected";
pub const SUSPENDED: &str = "Suspended";
pub const INTEGRATIONS: &str = "IntegrationsMissing";

/// Reason of [`SUSPENDED`] while the spec is followed.
pub const NOT_SUSPENDED: &str = "NotSuspended";

/// Reason of [`INDEX`] while another index is filled: the one that serves goes on.
pub const REINDEXING: &str = "Reindexing";

/// The steps before the workloads, in their order.
const STEPS: [&str; 4] = [STORES, SCHEMA, TOPICS, INDEX];

/// Condition type of a component.
#[must_use]
pub fn available(component: Component) -> &'static str {
    match component {
        Component::Api => "ApiAvailable",
        Component::Relay => "RelayAvailable",
        Component::Indexer => "IndexerAvailable",
    }
}

/// What one step found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub status: &'static str,
    pub reason: String,
    pub message: String,
}

impl Finding {
    pub fn yes(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status: "True",
            reason: reason.into(),
            message: message.into(),
        }
    }

    #[must_use]
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }

    pub fn no(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status: "False",
            reason: reason.into(),
            message: message.into(),
        }
    }

    pub fn unknown(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status: "Unknown",
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// What one pass found. A step that it did not look at is absent, and its condition stays as it was.
#[derive(Debug, Default)]
pub struct Findings {
    pub steps: Vec<(&'static str, Finding)>,
    pub components: Vec<Health>,
    pub flow: Option<Flow>,
    pub topics: Option<Vec<TopicStatus>>,
    pub index: Option<IndexStatus>,
    /// The condition `DriftDetected`.
    pub drift: Option<Finding>,
    /// Drift that was put right in this pass.
    pub corrected: Vec<Difference>,
    /// Kinds that are asked for and that the cluster does not have, as far as it can be found out.
    pub missing: Option<Vec<(Kind, Served)>>,
    pub url: Option<String>,
    pub schema_version: Option<i64>,
    pub prepared_for: Option<String>,
    /// What becomes of the stores of a pipeline that is being deleted.
    pub deletion: Vec<DeletionStatus>,
    /// Why the pass ended early.
    pub stop: Option<(&'static str, String)>,
    pub suspended: bool,
    /// Something is left to be done in a moment, although all is as it should be.
    pub again: bool,
}

impl Findings {
    /// A step passed.
    pub fn pass(&mut self, step: &'static str, reason: &'static str, message: impl Into<String>) {
        self.steps.push((step, Finding::yes(reason, message)));
    }

    /// A step did not pass; `why` tells the reason.
    pub fn stop(&mut self, step: Option<&'static str>, why: &Stop) {
        let (reason, message) = match why {
            Stop::Waiting { reason, message } => (*reason, message.clone()),
            Stop::Failed(error) => (error.reason(), error.to_string()),
        };
        if let Some(step) = step {
            let finding = match reason {
                REINDEXING => Finding::yes(reason, message.clone()),
                _ => Finding::no(reason, message.clone()),
            };
            self.steps.push((step, finding));
        }
        self.stop = Some((reason, message));
    }
}

/// The status after a pass.
#[must_use]
pub fn next(resource: &CommercePipeline, findings: &Findings, now: &Time) -> CommercePipelineStatus {
    let previous = resource.status.clone().unwrap_or_default();
    let generation = resource.metadata.generation;
    let before = |kind: &str| {
        previous
            .conditions
            .iter()
            .find(|condition| condition.type_ == kind)
    };

    let mut conditions = Vec::new();
    for step in STEPS {
        let found = findings
            .steps
            .iter()
            .find(|(kind, _)| *kind == step)
            .map(|(_, finding)| finding.clone());
        let waits = || Finding::unknown("NotReached", "waits for the steps before it");
        match (found, before(step)) {
            (Some(finding), _) => conditions.push(condition(step, finding, generation)),
            (None, Some(kept)) => conditions.push(kept.clone()),
            (None, None) => conditions.push(condition(step, waits(), generation)),
        }
    }
    for component in [Component::Api, Component::Relay, Component::Indexer] {
        let kind = available(component);
        match findings
            .components
            .iter()
            .find(|health| health.component == component)
        {
            Some(health) => conditions.push(condition(kind, health.finding.clone(), generation)),
            None => conditions.extend(before(kind).cloned()),
        }
    }
    let told = findings.flow.as_ref().and_then(|flow| flow.finding.clone());
    match (told, before(FLOWING)) {
        (Some(finding), _) => conditions.push(condition(FLOWING, finding, generation)),
        (None, Some(kept)) => conditions.push(kept.clone()),
        (None, None) => {}
    }
    let ready = if findings.suspended {
        before(READY).cloned().unwrap_or_else(|| {
            condition(
                READY,
                Finding::unknown(SUSPENDED, "suspended before it was ready: set suspend: false"),
                generation,
            )
        })
    } else {
        condition(READY, readiness(&conditions, findings), generation)
    };
    conditions.insert(0, ready);
    // It is about what others did, and true is bad: it does not make a pipeline that works one that does not.
    match &findings.drift {
        Some(finding) => conditions.push(condition(DRIFT, finding.clone(), generation)),
        None => conditions.extend(before(DRIFT).cloned()),
    }
    match &findings.missing {
        Some(missing) => {
            conditions.extend(integrations(missing).map(|f| condition(INTEGRATIONS, f, generation)));
        }
        None => conditions.extend(before(INTEGRATIONS).cloned()),
    }
    conditions.push(condition(SUSPENDED, suspension(findings.suspended), generation));
    for condition in &mut conditions {
        let kept = before(&condition.type_).filter(|kept| kept.status == condition.status);
        condition.last_transition_time =
            kept.map_or_else(|| now.clone(), |kept| kept.last_transition_time.clone());
    }

    let of = |component: Component, kept: Option<ComponentStatus>| {
        findings
            .components
            .iter()
            .find(|health| health.component == component)
            .map(|health| health.status.clone())
            .or(kept)
    };
    let figures = match &findings.flow {
        Some(flow) => flow.figures.clone(),
        None => Figures::of(&previous),
    };
    CommercePipelineStatus {
        observed_generation: generation,
        conditions,
        api: of(Component::Api, previous.api),
        relay: of(Component::Relay, previous.relay),
        indexer: of(Component::Indexer, previous.indexer),
        schema_version: findings.schema_version.or(previous.schema_version),
        topics: findings.topics.clone().unwrap_or(previous.topics),
        index: findings.index.clone().or(previous.index),
        outbox: figures.outbox,
        consumer_lag: figures.consumer_lag,
        freshness: figures.freshness,
        url: findings.url.clone().or(previous.url),
        prepared_for: findings.prepared_for.clone().or(previous.prepared_for),
        deletion: findings.deletion.clone(),
    }
}

fn suspension(suspended: bool) -> Finding {
    if suspended {
        Finding::yes(
            SUSPENDED,
            "nothing is changed until suspend is false; what runs goes on running",
        )
    } else {
        Finding::no(NOT_SUSPENDED, "suspend is false")
    }
}

/// Without what is missing orders flow as well, so it is told only while something is.
fn integrations(missing: &[(Kind, Served)]) -> Option<Finding> {
    let each = |(kind, served): &(Kind, Served)| {
        let (field, whose) = kind.asked_by();
        let kind = kind.resource().kind;
        match served {
            Served::Unknown(why) => format!(
                "{field} asks for a {kind}, and whether this cluster knows it can't be found out now ({why}): what there is of it stays as it is, and it is asked again soon; `kubectl get apiservices` tells what is down"
            ),
            _ => format!(
                "{field} asks for a {kind}, which this cluster does not know: install the definitions of {whose}, or remove {field}"
            ),
        }
    };
    let messages: Vec<_> = missing.iter().map(each).collect();
    let known = missing.iter().any(|(_, served)| *served == Served::No);
    let reason = if known { "KindMissing" } else { "KindUnknown" };
    (!messages.is_empty()).then(|| Finding::yes(reason, messages.join("; ")))
}

/// The first thing that is not as it should be, or that all is well.
fn readiness(conditions: &[Condition], findings: &Findings) -> Finding {
    if let Some((reason, message)) = &findings.stop {
        return Finding::no(*reason, message.clone());
    }
    // A backlog that is being worked off is no reason to take a rollout for failed: `Flowing` tells of it, by itself.
    let mut steps = conditions.iter().filter(|condition| condition.type_ != FLOWING);
    if let Some(bad) = steps.find(|condition| condition.status != "True") {
        return Finding::no(bad.reason.clone(), format!("{}: {}", bad.type_, bad.message));
    }
    // The first in the order of the rollout is what the others wait for.
    let rolling = Component::ALL.iter().find_map(|component| {
        let of = |health: &&Health| health.component == *component && health.rolling;
        findings.components.iter().find(of)
    });
    if let Some(health) = rolling {
        return Finding::no(
            health.finding.reason.clone(),
            format!("{}: {}", health.component.as_str(), health.finding.message),
        );
    }
    let url = findings.url.as_deref().unwrap_or_default();
    Finding::yes("Running", format!("takes orders at {url}/orders"))
}

fn condition(kind: &str, finding: Finding, generation: Option<i64>) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: finding.status.to_owned(),
        reason: finding.reason,
        message: finding.message,
        observed_generation: generation,
        // Set by `next`, which knows the previous one.
        last_transition_time: Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
    }
}

/// Writes the status, if it differs from the one that the resource has.
pub async fn write(
    client: &Client,
    resource: &CommercePipeline,
    status: &CommercePipelineStatus,
) -> Result<bool, Error> {
    if resource.status.as_ref() == Some(status) {
        return Ok(false);
    }
    let api: Api<CommercePipeline> =
        Api::namespaced(client.clone(), &resource.namespace().unwrap_or_default());
    let body = json!({
        "apiVersion": CommercePipeline::api_version(&()),
        "kind": CommercePipeline::kind(&()),
        "metadata": { "name": resource.name_any() },
        "status": status,
    });
    let params = PatchParams::apply(MANAGER).force();
    match api
        .patch_status(&resource.name_any(), &params, &Patch::Apply(&body))
        .await
    {
        Ok(_) => Ok(true),
        // Deleted meanwhile: there is nobody to tell.
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(source) => Err(Error::StatusFailed(source)),
    }
}
