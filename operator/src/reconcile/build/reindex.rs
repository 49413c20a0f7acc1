//! The Job that fills an index with the wanted mapping, beside the one that serves.

use commerce_core::index::REFUSED;
use k8s_openapi::{
    api::{
        batch::v1::{
            Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
            PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
        },
        core::v1::{Container, PodTemplateSpec, ResourceRequirements},
    },
    apimachinery::pkg::api::resource::Quantity,
};
use sha2::{Digest as _, Sha256};

use super::{
    super::{
        names::{self, Component, REINDEX_FROM, REINDEX_INTO},
        validate::Pipeline,
    },
    environment, metadata, overrides, pod,
};

/// Component of the Job and its pods.
pub const COMPONENT: &str = "reindex";
/// The containers: one fills the index, one compares it with PostgreSQL afterwards.
const FILL: &str = "rebuild";
const COMPARE: &str = "verify";
/// Attempts before the Job counts as failed. They are 10 s, 20 s, 40 s, … and at most 6 min apart: a store may be away for half
/// an hour.
const RETRIES: i32 = 10;

/// The Job that fills the wanted index; `from` serves meanwhile. A Job can't be changed, so its name holds a fingerprint of all
/// that decides what it does: another mapping, image or Secret is another Job. What it is about is written on it, so that it
/// can be cleaned up behind it when the spec says something else.
#[must_use]
pub fn job(pipeline: &Pipeline, from: &str) -> Job {
    let into = pipeline.elasticsearch.index.wanted_index();
    let inputs = format!(
        "{}\n{into}\n{}",
        pipeline.images.of("indexer"),
        pipeline.fingerprints.reindex
    );
    let fingerprint = names::hex(&Sha256::digest(inputs), 8);
    let mut metadata = metadata(
        pipeline,
        &format!("{}-{COMPONENT}-{fingerprint}", pipeline.name),
        COMPONENT,
    );
    metadata.annotations = Some(
        [(REINDEX_INTO, into.as_str()), (REINDEX_FROM, from)]
            .map(|(name, index)| (name.to_owned(), index.to_owned()))
            .into(),
    );
    Job {
        metadata,
        spec: Some(JobSpec {
            backoff_limit: Some(RETRIES),
            pod_failure_policy: Some(PodFailurePolicy {
                rules: vec![evicted(), refused()],
            }),
            template: template(pipeline, &into),
            ..JobSpec::default()
        }),
        status: None,
    }
}

fn template(pipeline: &Pipeline, into: &str) -> PodTemplateSpec {
    let environment = environment::reindex(pipeline);
    let container = |name: &str, args: &[&str]| {
        pod::container(
            pipeline,
            name,
            "indexer",
            args.iter().map(|arg| (*arg).to_owned()).collect(),
            environment.variables.clone(),
            &environment.mounts,
            resources(),
        )
    };
    let mut fill = container(FILL, &["rebuild", "--live", "--into", into]);
    let mut compare = container(COMPARE, &["verify", "--repair", "--index", into]);
    let added = pipeline.workload(Component::Indexer).template.as_ref();
    let containers = added.and_then(|added| added.spec.as_ref());
    let own = containers.and_then(|spec| overrides::own(Component::Indexer, spec));
    for container in [&mut fill, &mut compare] {
        add(container, own);
    }
    let fingerprint = &pipeline.fingerprints.reindex;
    let template = pod::template(pipeline, COMPONENT, fingerprint, compare, &environment.mounts);
    let mut template = overrides::merge(template, added.map(of_pod).as_ref());
    if let Some(spec) = &mut template.spec {
        spec.init_containers = Some(vec![fill]);
        // A failed attempt keeps its pod, and with it its log.
        spec.restart_policy = Some("Never".to_owned());
    }
    template
}

/// Of what the spec adds to the indexer's pods, what is about the pod: other containers would go on for ever, and with them
/// the Job.
fn of_pod(added: &PodTemplateSpec) -> PodTemplateSpec {
    let mut added = added.clone();
    if let Some(spec) = &mut added.spec {
        spec.containers.clear();
        spec.init_containers = None;
    }
    added
}

/// Of what the spec adds to the indexer's container, what any program may need.
fn add(container: &mut Container, added: Option<&Container>) {
    let Some(added) = added else { return };
    let more = added.env.iter().flatten().cloned();
    container.env.get_or_insert_default().extend(more);
    let more = added.volume_mounts.iter().flatten().cloned();
    container.volume_mounts.get_or_insert_default().extend(more);
    container.env_from.clone_from(&added.env_from);
}

fn resources() -> ResourceRequirements {
    let quantity = |(name, quantity): (&str, &str)| (name.to_owned(), Quantity(quantity.to_owned()));
    ResourceRequirements {
        requests: Some([("cpu", "50m"), ("memory", "64Mi")].map(quantity).into()),
        limits: Some([("memory", "512Mi")].map(quantity).into()),
        claims: None,
    }
}

/// A pod that has to make room for another one has not failed.
fn evicted() -> PodFailurePolicyRule {
    PodFailurePolicyRule {
        action: "Ignore".to_owned(),
        on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
            type_: "DisruptionTarget".to_owned(),
            status: Some("True".to_owned()),
        }]),
        ..PodFailurePolicyRule::default()
    }
}

/// What the mapping does not take it will not take the next time.
fn refused() -> PodFailurePolicyRule {
    PodFailurePolicyRule {
        action: "FailJob".to_owned(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some(FILL.to_owned()),
            operator: "In".to_owned(),
            values: vec![i32::from(REFUSED)],
        }),
        ..PodFailurePolicyRule::default()
    }
}
