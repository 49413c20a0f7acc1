//! Second station: the spec and the Secrets become a [`Pipeline`], in which nothing can be wrong any more.
//!
//! It is pure, and after it nothing reads the raw spec again. Most of what it refuses the API server refused already; it
//! must hold all the same for objects that were stored under an older definition.

mod access;
pub(super) mod address;
mod hosts;
mod stores;
mod template;
pub mod tls;
mod workloads;

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt as _};

pub use access::{Access, Jwt, JwtKeys, RateLimit};
pub use stores::{
    Elasticsearch, Kafka, Postgres, Redis, RedisServer, database, elasticsearch, kafka, postgres, redis,
};
pub use workloads::{Indexer, Relay, Scaling, Seed, Workload, api, indexer, relay};

use self::{access::access, workloads::seed};
use super::{
    build,
    flow::objective,
    names::Component,
    secrets::{Missing, SecretKey, Secrets},
};
use crate::crd::{
    CommercePipeline, DriftPolicy, GatewaySpec, ImagePullPolicy, IngressSpec, MonitoringSpec,
    NetworkPolicySpec, TracingSpec,
};

/// A pipeline that can be built.
#[derive(Clone, Debug)]
pub struct Pipeline {
    pub name: String,
    pub namespace: String,
    pub owner: OwnerReference,
    pub images: Images,
    pub priority_class: Option<String>,
    pub drift_policy: DriftPolicy,
    pub seed: Option<Seed>,
    pub postgres: Postgres,
    pub kafka: Kafka,
    pub elasticsearch: Elasticsearch,
    pub redis: Redis,
    pub api: Workload,
    pub access: Access,
    pub ingress: Option<IngressSpec>,
    pub gateway: Option<GatewaySpec>,
    pub relay: Relay,
    pub indexer: Indexer,
    pub tracing: Option<TracingSpec>,
    pub monitoring: MonitoringSpec,
    /// How soon orders are to be found.
    pub objective: Duration,
    /// Absent where it is off.
    pub network: Option<NetworkPolicySpec>,
    /// Fingerprint of the Secrets that each component uses.
    pub fingerprints: Fingerprints,
    /// Fingerprint of the generation and of all Secrets.
    pub inputs: String,
}

impl Pipeline {
    /// What a component has in common with the others.
    #[must_use]
    pub fn workload(&self, component: Component) -> &Workload {
        match component {
            Component::Api => &self.api,
            Component::Relay => &self.relay.workload,
            Component::Indexer => &self.indexer.workload,
        }
    }
}

/// Where the images come from.
#[derive(Clone, Debug)]
pub struct Images {
    registry: String,
    pub tag: String,
    pub pull_policy: &'static str,
    pub pull_secrets: Vec<String>,
}

impl Images {
    /// The image of a component.
    #[must_use]
    pub fn of(&self, component: &str) -> String {
        format!("{}/commerce-{component}:{}", self.registry, self.tag)
    }
}

/// Fingerprints of the Secrets that each component uses.
#[derive(Clone, Debug)]
pub struct Fingerprints {
    pub api: String,
    pub relay: String,
    pub indexer: String,
    pub migrate: String,
    pub reindex: String,
}

/// One thing that is wrong with a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error(transparent)]
    Missing(#[from] Missing),
    #[error("{field}: the key {key} of the Secret {secret} does not hold {accepted}", field = at.field, secret = at.secret, key = at.key)]
    Secret { at: SecretKey, accepted: &'static str },
    #[error("{field} is {value}: it takes {accepted}")]
    Field {
        field: &'static str,
        value: String,
        accepted: &'static str,
    },
    #[error("{field}: {problem}")]
    Template { field: &'static str, problem: String },
}

/// All that is wrong with a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Invalid {
    pub problems: Vec<Problem>,
}

/// The pipeline that a resource and its Secrets stand for, or everything that is wrong with them.
pub fn validate(resource: &CommercePipeline, secrets: &Secrets) -> Result<Pipeline, Invalid> {
    let mut problems = Vec::new();
    let spec = &resource.spec;
    let namespace = resource.namespace().unwrap_or_default();
    let postgres = keep(&mut problems, postgres(&spec.postgres, &namespace, secrets));
    let kafka = keep(&mut problems, kafka(&spec.kafka, &namespace, secrets));
    let elasticsearch = keep(
        &mut problems,
        elasticsearch(&spec.elasticsearch, &namespace, secrets),
    );
    let default_prefix = format!("{namespace}:{}:", resource.name_any());
    let redis = keep(
        &mut problems,
        redis(&spec.redis, &namespace, &default_prefix, secrets),
    );
    let seed = keep(&mut problems, seed(spec.catalogue.as_ref()));
    let access = keep(&mut problems, access(&spec.api, secrets));
    let api = keep(&mut problems, api(&spec.api));
    let relay = keep(&mut problems, relay(&spec.relay));
    let indexer = keep(&mut problems, indexer(&spec.indexer));
    let (
        Some(postgres),
        Some(kafka),
        Some(elasticsearch),
        Some(redis),
        Some(seed),
        Some(access),
        Some(api),
        Some(relay),
        Some(indexer),
    ) = (
        postgres,
        kafka,
        elasticsearch,
        redis,
        seed,
        access,
        api,
        relay,
        indexer,
    )
    else {
        return Err(Invalid { problems });
    };
    let of = |stores: &[&[SecretKey]]| secrets.fingerprint(stores.iter().copied().flatten());
    let (p, k, e, r) = (
        &postgres.files[..],
        &kafka.files[..],
        &elasticsearch.files[..],
        &redis.files[..],
    );
    let callers = &access.files[..];
    let generation = resource.metadata.generation.unwrap_or_default();
    let pipeline = Pipeline {
        name: resource.name_any(),
        namespace,
        owner: resource.controller_owner_ref(&()).unwrap_or_default(),
        images: Images {
            registry: spec.image.registry.clone(),
            tag: spec.image.tag.clone(),
            pull_policy: pull_policy(spec.image_pull_policy),
            pull_secrets: spec
                .image_pull_secrets
                .iter()
                .map(|secret| secret.name.clone())
                .collect(),
        },
        priority_class: spec.priority_class_name.clone(),
        drift_policy: spec.drift_policy,
        seed,
        fingerprints: Fingerprints {
            api: of(&[p, e, r, callers]),
            relay: of(&[p, k]),
            indexer: of(&[p, k, e, r]),
            migrate: of(&[p]),
            reindex: of(&[p, e]),
        },
        inputs: format!("{generation}-{}", of(&[p, k, e, r, callers])),
        postgres,
        kafka,
        elasticsearch,
        redis,
        api,
        access,
        ingress: spec.api.ingress.clone(),
        gateway: spec.api.gateway.clone(),
        relay,
        indexer,
        tracing: spec
            .monitoring
            .as_ref()
            .and_then(|monitoring| monitoring.tracing.clone()),
        monitoring: spec.monitoring.clone().unwrap_or_default(),
        objective: objective(spec),
        network: Some(&spec.network_policy)
            .filter(|network| network.enabled)
            .cloned(),
    };
    whole(pipeline)
}

/// Refuses what the spec adds to the pods where that would break them.
fn whole(pipeline: Pipeline) -> Result<Pipeline, Invalid> {
    let problems = build::conflicts(&pipeline);
    if problems.is_empty() {
        Ok(pipeline)
    } else {
        Err(Invalid { problems })
    }
}

impl Invalid {
    /// In one word, for conditions and events.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        if self
            .problems
            .iter()
            .all(|problem| matches!(problem, Problem::Missing(_)))
        {
            "SecretMissing"
        } else {
            "SpecInvalid"
        }
    }
}

fn keep<T, P: Into<Problem>>(problems: &mut Vec<Problem>, result: Result<T, P>) -> Option<T> {
    result.map_err(|problem| problems.push(problem.into())).ok()
}

fn pull_policy(policy: ImagePullPolicy) -> &'static str {
    match policy {
        ImagePullPolicy::Always => "Always",
        ImagePullPolicy::IfNotPresent => "IfNotPresent",
        ImagePullPolicy::Never => "Never",
    }
}

fn positive(field: &'static str, value: i32) -> Result<u32, Problem> {
    let accepted = "a whole number from 1";
    let problem = || Problem::Field {
        field,
        value: value.to_string(),
        accepted,
    };
    u32::try_from(value)
        .ok()
        .filter(|value| *value > 0)
        .ok_or_else(problem)
}

/// Gives the text back, since the services read the same notation.
fn duration(field: &'static str, text: &str) -> Result<String, Problem> {
    let accepted = "a duration greater than zero, such as 250ms, 30s or 24h";
    parsed_duration(field, text, accepted, |duration| !duration.is_zero())
}

/// One that may be zero, which turns something off.
fn duration_or_zero(field: &'static str, text: &str) -> Result<String, Problem> {
    parsed_duration(field, text, "a duration such as 30s or 5m, or 0s", |_| true)
}

fn parsed_duration(
    field: &'static str,
    text: &str,
    accepted: &'static str,
    fits: impl FnOnce(&Duration) -> bool,
) -> Result<String, Problem> {
    let duration = humantime::parse_duration(text).ok().filter(fits);
    let problem = || Problem::Field {
        field,
        value: text.to_owned(),
        accepted,
    };
    duration.map(|_| text.to_owned()).ok_or_else(problem)
}
