//! Which version of each Deployment is applied: a new one only where its turn has come, else the one before. Pure.
//!
//! A new version goes to the indexer, then to the relay, then to the API, and to each only when the ones before it have it and
//! are ready. What holds a rollout up never holds up repair: the version that runs is kept as a `ControllerRevision`, so that a
//! Deployment which somebody edits or deletes meanwhile is put back as it was. Where no version ran before there is nothing to
//! protect, and all come up together.

use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, Deployment},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::runtime::RawExtension,
};
use kube::{ResourceExt as _, api::ObjectMeta};
use sha2::{Digest as _, Sha256};

use super::names::{self, REVISION};

/// What to do with one Deployment.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// It is to be as the spec asks, and its version to be kept.
    Now(Box<ControllerRevision>),
    /// It keeps the version that runs, and is otherwise as the spec asks.
    Later(Box<Deployment>),
    /// Its version is not known, or nothing ran yet: it is left as it is.
    Leave,
}

/// Fingerprint of a pod template, by which versions are told apart.
#[must_use]
pub fn fingerprint(template: &PodTemplateSpec) -> String {
    let text = serde_json::to_vec(template).unwrap_or_default();
    names::hex(&Sha256::digest(text), 10)
}

/// What to do with a Deployment. `open`: its turn has come.
#[must_use]
pub fn step(desired: &Deployment, live: &[Deployment], revisions: &[ControllerRevision], open: bool) -> Step {
    let name = desired.name_any();
    let kept = known(&name, revisions);
    let found = live.iter().any(|live| live.name_any() == name);
    let running = running(&name, live, &kept);
    let wanted = version(desired);
    if running == wanted && (running.is_some() || found) || open {
        return now(desired, wanted.unwrap_or_default(), &kept);
    }
    keep(desired, live, revisions).map_or(Step::Leave, |kept| Step::Later(Box::new(kept)))
}

/// A Deployment with the version that runs, and otherwise as `desired`; `None` where that version is not known.
#[must_use]
pub fn keep(
    desired: &Deployment,
    live: &[Deployment],
    revisions: &[ControllerRevision],
) -> Option<Deployment> {
    let name = desired.name_any();
    let kept = known(&name, revisions);
    let running = running(&name, live, &kept)?;
    let kept = kept.iter().find(|kept| version(**kept) == Some(running))?;
    let template = serde_json::from_value(kept.data.as_ref()?.0.clone()).ok()?;
    let mut deployment = desired.clone();
    set(&mut deployment, running.to_owned(), template);
    Some(deployment)
}

/// Gives a Deployment the pods of a version.
pub fn set(deployment: &mut Deployment, version: String, template: PodTemplateSpec) {
    deployment.annotations_mut().insert(REVISION.to_owned(), version);
    if let Some(spec) = &mut deployment.spec {
        spec.template = template;
    }
}

/// The known versions of a Deployment.
fn known<'a>(deployment: &str, revisions: &'a [ControllerRevision]) -> Vec<&'a ControllerRevision> {
    let of_this = |kept: &&ControllerRevision| {
        version(*kept).is_some_and(|version| kept.name_any() == revision_name(deployment, version))
    };
    revisions.iter().filter(of_this).collect()
}

/// The version that a Deployment has, or had last where it was deleted.
fn running<'a>(deployment: &str, live: &'a [Deployment], kept: &[&'a ControllerRevision]) -> Option<&'a str> {
    match live.iter().find(|live| live.name_any() == deployment) {
        Some(found) => version(found),
        None => version(*kept.iter().max_by_key(|kept| kept.revision)?),
    }
}

/// Whether any version of a pipeline's workloads is known to have run.
#[must_use]
pub fn has_begun(live: &[Deployment], revisions: &[ControllerRevision]) -> bool {
    !live.is_empty() || !revisions.is_empty()
}

/// Names of the revisions that the Deployments run.
#[must_use]
pub fn in_use(live: &[Deployment]) -> Vec<String> {
    live.iter()
        .filter_map(|live| Some(revision_name(&live.name_any(), version(live)?)))
        .collect()
}

fn now(desired: &Deployment, wanted: &str, kept: &[&ControllerRevision]) -> Step {
    let is_wanted = |kept: &ControllerRevision| version(kept) == Some(wanted);
    let others = kept.iter().filter(|kept| !is_wanted(kept));
    let newest = others.map(|kept| kept.revision).max().unwrap_or(0);
    // One that comes back is the newest again: where its Deployment is deleted, it is what ran last.
    let known = kept.iter().find(|kept| is_wanted(kept) && kept.revision > newest);
    let template = desired.spec.as_ref().map(|spec| &spec.template);
    let data = template.and_then(|template| serde_json::to_value(template).ok());
    Step::Now(Box::new(ControllerRevision {
        metadata: ObjectMeta {
            name: Some(revision_name(&desired.name_any(), wanted)),
            namespace: desired.metadata.namespace.clone(),
            labels: desired.metadata.labels.clone(),
            annotations: Some([(REVISION.to_owned(), wanted.to_owned())].into()),
            owner_references: desired.metadata.owner_references.clone(),
            ..ObjectMeta::default()
        },
        data: data.map(RawExtension),
        revision: known.map_or(newest + 1, |known| known.revision),
    }))
}

fn version<K: kube::Resource>(object: &K) -> Option<&str> {
    object.annotations().get(REVISION).map(String::as_str)
}

fn revision_name(deployment: &str, version: &str) -> String {
    format!("{deployment}-{version}")
}
