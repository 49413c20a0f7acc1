//! The Job that brings the database schema up to date and writes the first products.

use commerce_core::postgres::NEWER_SCHEMA;
use k8s_openapi::{
    api::{
        batch::v1::{
            Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
        },
        core::v1::ResourceRequirements,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use sha2::{Digest as _, Sha256};

use super::{
    super::{names, validate::Pipeline},
    environment, metadata, pod,
};

/// Attempts before the Job counts as failed. They are 10 s, 20 s, 40 s, … apart.
const RETRIES: i32 = 5;

/// The Job. A Job can't be changed, so its name holds a fingerprint of all that decides what it does: another image, seed or
/// database URI is another Job.
pub fn job(pipeline: &Pipeline) -> Job {
    let mut args = vec!["migrate".to_owned()];
    if let Some(seed) = pipeline.seed {
        args.extend([
            "--seed-skus".to_owned(),
            seed.skus.to_string(),
            "--seed-stock".to_owned(),
            seed.stock.to_string(),
        ]);
    }
    let inputs = format!(
        "{}\n{}\n{}",
        pipeline.images.of("api"),
        args.join(" "),
        pipeline.fingerprints.migrate
    );
    let fingerprint = names::hex(&Sha256::digest(inputs), 8);
    let environment = environment::migrate(pipeline);
    let resources = ResourceRequirements {
        requests: Some(
            [("cpu", "25m"), ("memory", "32Mi")]
                .map(|(k, v)| (k.to_owned(), Quantity(v.to_owned())))
                .into(),
        ),
        limits: Some([("memory".to_owned(), Quantity("256Mi".to_owned()))].into()),
        claims: None,
    };
    let container = pod::container(
        pipeline,
        "migrate",
        "api",
        args,
        environment.variables,
        &environment.mounts,
        resources,
    );
    let mut template = pod::template(
        pipeline,
        "migrate",
        &pipeline.fingerprints.migrate,
        container,
        &environment.mounts,
    );
    if let Some(spec) = &mut template.spec {
        // A failed attempt keeps its pod, and with it its log.
        spec.restart_policy = Some("Never".to_owned());
    }
    Job {
        metadata: metadata(
            pipeline,
            &format!("{}-migrate-{fingerprint}", pipeline.name),
            "migrate",
        ),
        spec: Some(JobSpec {
            backoff_limit: Some(RETRIES),
            pod_failure_policy: Some(PodFailurePolicy {
                rules: vec![no_use_to_try_again()],
            }),
            template,
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// A schema that is newer than the image stays newer.
fn no_use_to_try_again() -> PodFailurePolicyRule {
    PodFailurePolicyRule {
        action: "FailJob".to_owned(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some("migrate".to_owned()),
            operator: "In".to_owned(),
            values: vec![i32::from(NEWER_SCHEMA)],
        }),
        ..PodFailurePolicyRule::default()
    }
}
