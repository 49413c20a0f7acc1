//! Second station: the spec and the Secrets become a [`Pipeline`], in which nothing can be wrong any more.
//!
//! It is pure, and after it nothing reads the raw spec again. Most of what it refuses the API server refused already; it
//! must hold all the same for objects that were stored under an older definition.

mod stores;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::ResourceRequirements,
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::OwnerReference, util::intstr::IntOrString},
};
use kube::{Resource as _, ResourceExt as _};

pub use stores::{Elasticsearch, Kafka, Postgres, Redis, elasticsearch, kafka, postgres, redis};

use super::secrets::{Missing, SecretKey, Secrets};
use crate::crd::{CommercePipeline, ImagePullPolicy, IngressSpec, Resources};

/// A pipeline that can be built.
#[derive(Clone, Debug)]
pub struct Pipeline {
    pub name: String,
    pub namespace: String,
    pub owner: OwnerReference,
    pub images: Images,
    pub seed: Option<Seed>,
    pub postgres: Postgres,
    pub kafka: Kafka,
    pub elasticsearch: Elasticsearch,
    pub redis: Redis,
    pub api: Workload,
    pub ingress: Option<IngressSpec>,
    pub relay: Workload,
    pub relay_batch_size: u32,
    pub relay_poll_interval: String,
    pub indexer: Workload,
    pub bulk_max_documents: u32,
    pub bulk_max_bytes: u32,
    pub bulk_max_delay: String,
    /// Fingerprint of the Secrets that each component uses.
    pub fingerprints: Fingerprints,
    /// Fingerprint of the generation and of all Secrets.
    pub inputs: String,
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

/// A generated catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    pub skus: u32,
    pub stock: u64,
}

/// What the workloads have in common.
#[derive(Clone, Debug)]
pub struct Workload {
    pub replicas: i32,
    pub resources: ResourceRequirements,
}

/// Fingerprints of the Secrets that each component uses.
#[derive(Clone, Debug)]
pub struct Fingerprints {
    pub api: String,
    pub relay: String,
    pub indexer: String,
    pub migrate: String,
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
    let postgres = keep(&mut problems, postgres(&spec.postgres, secrets));
    let kafka = keep(&mut problems, kafka(&spec.kafka, secrets));
    let elasticsearch = keep(&mut problems, elasticsearch(&spec.elasticsearch, secrets));
    let namespace = resource.namespace().unwrap_or_default();
    let default_prefix = format!("{namespace}:{}:", resource.name_any());
    let redis = keep(&mut problems, redis(&spec.redis, &default_prefix, secrets));
    let poll_interval = keep(
        &mut problems,
        duration("relay.pollInterval", &spec.relay.poll_interval),
    );
    let max_delay = keep(
        &mut problems,
        duration("indexer.bulk.maxDelay", &spec.indexer.bulk.max_delay),
    );
    let seed = spec
        .catalogue
        .as_ref()
        .and_then(|catalogue| catalogue.seed.as_ref())
        .and_then(|seed| {
            let skus = keep(&mut problems, positive("catalogue.seed.skus", seed.skus?))?;
            Some(Seed {
                skus,
                stock: u64::try_from(seed.stock.unwrap_or(1_000_000)).unwrap_or_default(),
            })
        });
    let mut positive = |field, value| keep(&mut problems, positive(field, value));
    let batch_size = positive("relay.batchSize", spec.relay.batch_size);
    let max_documents = positive("indexer.bulk.maxDocuments", spec.indexer.bulk.max_documents);
    let max_bytes = positive("indexer.bulk.maxBytes", spec.indexer.bulk.max_bytes);
    let (Some(postgres), Some(kafka), Some(elasticsearch), Some(redis)) =
        (postgres, kafka, elasticsearch, redis)
    else {
        return Err(Invalid { problems });
    };
    let (
        Some(relay_poll_interval),
        Some(bulk_max_delay),
        Some(relay_batch_size),
        Some(bulk_max_documents),
        Some(bulk_max_bytes),
    ) = (poll_interval, max_delay, batch_size, max_documents, max_bytes)
    else {
        return Err(Invalid { problems });
    };
    if !problems.is_empty() {
        return Err(Invalid { problems });
    }
    let of = |stores: &[&[SecretKey]]| secrets.fingerprint(stores.iter().copied().flatten());
    let (p, k, e, r) = (
        &postgres.files[..],
        &kafka.files[..],
        &elasticsearch.files[..],
        &redis.files[..],
    );
    let generation = resource.metadata.generation.unwrap_or_default();
    Ok(Pipeline {
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
        seed,
        fingerprints: Fingerprints {
            api: of(&[p, e, r]),
            relay: of(&[p, k]),
            indexer: of(&[k, e, r]),
            migrate: of(&[p]),
        },
        inputs: format!("{generation}-{}", of(&[p, k, e, r])),
        postgres,
        kafka,
        elasticsearch,
        redis,
        api: workload(
            spec.api.replicas,
            spec.api.resources.as_ref(),
            ["50m", "64Mi", "256Mi"],
        ),
        ingress: spec.api.ingress.clone(),
        relay: workload(
            spec.relay.replicas,
            spec.relay.resources.as_ref(),
            ["25m", "32Mi", "256Mi"],
        ),
        relay_batch_size,
        relay_poll_interval,
        indexer: workload(
            spec.indexer.replicas,
            spec.indexer.resources.as_ref(),
            ["25m", "48Mi", "256Mi"],
        ),
        bulk_max_documents,
        bulk_max_bytes,
        bulk_max_delay,
    })
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
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(text.to_owned()),
        _ => Err(Problem::Field {
            field,
            value: text.to_owned(),
            accepted,
        }),
    }
}

/// What the spec asks for, with defaults for what it leaves open: a request of CPU, a request and a limit of memory. CPU has
/// no limit by default, since throttling makes slow what idle cores could have served.
fn workload(
    replicas: i32,
    resources: Option<&Resources>,
    [cpu, memory, memory_limit]: [&str; 3],
) -> Workload {
    let asked = |map: fn(&Resources) -> &BTreeMap<String, IntOrString>| {
        resources
            .map(map)
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), quantity(value)))
            .collect()
    };
    let mut requests: BTreeMap<_, _> = asked(|resources| &resources.requests);
    let mut limits: BTreeMap<_, _> = asked(|resources| &resources.limits);
    for (name, default) in [("cpu", cpu), ("memory", memory)] {
        // Kubernetes takes an absent request from the limit; a default request could be above it.
        if !requests.contains_key(name) && !limits.contains_key(name) {
            requests.insert(name.to_owned(), Quantity(default.to_owned()));
        }
    }
    if !limits.contains_key("memory")
        && resources.is_none_or(|resources| !resources.requests.contains_key("memory"))
    {
        limits.insert("memory".to_owned(), Quantity(memory_limit.to_owned()));
    }
    let some = |map: BTreeMap<_, _>| (!map.is_empty()).then_some(map);
    Workload {
        replicas,
        resources: ResourceRequirements {
            requests: some(requests),
            limits: some(limits),
            claims: None,
        },
    }
}

fn quantity(value: &IntOrString) -> Quantity {
    match value {
        IntOrString::Int(number) => Quantity(number.to_string()),
        IntOrString::String(text) => Quantity(text.clone()),
    }
}
