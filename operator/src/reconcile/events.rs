//! Tells changes of conditions as events, so that `kubectl describe` shows what happened and when.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Resource as _,
    runtime::events::{Event, EventType, Recorder},
};

use super::status::{DRIFT, INDEX, NOT_SUSPENDED, READY, REINDEXING, SUSPENDED};
use crate::crd::{CommercePipeline, CommercePipelineStatus};

/// Reasons of conditions that do not hold yet, without anything being wrong.
const PATIENT: [&str; 11] = [
    "NotReached",
    "Migrating",
    REINDEXING,
    "WaitingForMigration",
    "Starting",
    "RollingOut",
    "RolloutWaiting",
    SUSPENDED,
    NOT_SUSPENDED,
    "Deleting",
    "ScaledToZero",
];

/// Longest note that the API server takes.
const NOTE: usize = 1024;

/// The events for what changed between two statuses.
#[must_use]
pub fn changes(before: Option<&CommercePipelineStatus>, after: &CommercePipelineStatus) -> Vec<Event> {
    let known = |condition: &Condition| {
        before
            .into_iter()
            .flat_map(|status| &status.conditions)
            .any(|old| {
                (&old.type_, &old.status, &old.reason)
                    == (&condition.type_, &condition.status, &condition.reason)
            })
    };
    // What keeps the pipeline from being ready is told by the step that failed.
    let said_elsewhere = |condition: &Condition| {
        condition.type_ == READY
            && condition.status != "True"
            && after
                .conditions
                .iter()
                .any(|other| other.type_ != READY && other.reason == condition.reason)
    };
    let index = |status: &CommercePipelineStatus| status.index.clone().unwrap_or_default();
    let (was, is) = (before.map(index).unwrap_or_default(), index(after));
    let other_target = |condition: &Condition| {
        condition.type_ == INDEX && condition.reason == REINDEXING && was.target != is.target
    };
    let reindexed = was.target.is_some() && is.target.is_none() && was.target.as_ref() == Some(&is.active);
    let reason = |condition: &Condition| match condition.reason.as_str() {
        REINDEXING => "ReindexStarted".to_owned(),
        _ if condition.type_ == INDEX && condition.status == "True" && reindexed => "Reindexed".to_owned(),
        reason => reason.to_owned(),
    };
    after
        .conditions
        .iter()
        .filter(|condition| {
            let news = !known(condition) && !said_elsewhere(condition) || other_target(condition);
            // That a new pipeline is as its spec says is no news.
            let first =
                before.is_none_or(|status| status.conditions.iter().all(|old| old.type_ != condition.type_));
            news && condition.reason != "NotReached"
                && !(first && ["InSync", NOT_SUSPENDED].contains(&condition.reason.as_str()))
        })
        .map(|condition| {
            let holds = (condition.status == "True") != (condition.type_ == DRIFT);
            let fine = holds && condition.reason != "RolloutStuck";
            let normal = fine || PATIENT.contains(&condition.reason.as_str());
            event(normal, &reason(condition), &condition.type_, &condition.message)
        })
        .collect()
}

/// An event; `action` is what the operator was at.
#[must_use]
pub fn event(normal: bool, reason: &str, action: &str, note: &str) -> Event {
    Event {
        type_: if normal {
            EventType::Normal
        } else {
            EventType::Warning
        },
        reason: reason.to_owned(),
        note: Some(note.chars().take(NOTE).collect()),
        action: action.to_owned(),
        secondary: None,
    }
}

/// Publishes events. That one can't be written is no reason to stop: a namespace that is being deleted takes none.
pub async fn publish(recorder: &Recorder, resource: &CommercePipeline, events: Vec<Event>) {
    for event in events {
        if let Err(error) = recorder.publish(&event, &resource.object_ref(&())).await {
            tracing::warn!(%error, reason = event.reason, "an event could not be written");
        }
    }
}
