//! The workloads: how many, how large and how they work.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{PodTemplateSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{Problem, duration, positive, template::template};
use crate::crd::{Amount, ApiSpec, CatalogueSpec, IndexerSpec, RelaySpec, Resources};

/// A generated catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    pub skus: u32,
    pub stock: u64,
}

/// What the workloads have in common.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Absent where an autoscaler of the cluster decides.
    pub replicas: Option<i32>,
    /// Where the number of replicas changes by itself.
    pub scaling: Option<Scaling>,
    pub resources: ResourceRequirements,
    /// What is merged into the pods.
    pub template: Option<PodTemplateSpec>,
}

/// Between how many replicas a workload is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaling {
    pub min: i32,
    pub max: i32,
    /// Percent of the requested CPU, for the autoscaler of the cluster.
    pub cpu: Option<i32>,
}

impl Scaling {
    fn new(field: &'static str, min: i32, max: i32) -> Result<Self, Problem> {
        if min < 1 || max < min {
            return Err(Problem::Field {
                field,
                value: format!("{min} to {max}"),
                accepted: "minReplicas from 1 and maxReplicas not below it",
            });
        }
        Ok(Self { min, max, cpu: None })
    }
}

/// The relay.
#[derive(Clone, Debug)]
pub struct Relay {
    pub workload: Workload,
    pub batch_size: u32,
    pub poll_interval: String,
}

/// The indexer, and when it sends a bulk request.
#[derive(Clone, Debug)]
pub struct Indexer {
    pub workload: Workload,
    pub max_documents: u32,
    pub max_bytes: u32,
    pub max_delay: String,
}

/// Checks `spec.catalogue`.
pub fn seed(spec: Option<&CatalogueSpec>) -> Result<Option<Seed>, Problem> {
    let Some(seed) = spec.and_then(|catalogue| catalogue.seed.as_ref()) else {
        return Ok(None);
    };
    let Some(skus) = seed.skus else { return Ok(None) };
    let stock = u64::try_from(seed.stock.unwrap_or(1_000_000)).unwrap_or_default();
    Ok(Some(Seed {
        skus: positive("catalogue.seed.skus", skus)?,
        stock,
    }))
}

/// Checks `replicas`, `autoscaling` and `resources` of `spec.api`.
pub fn api(spec: &ApiSpec) -> Result<Workload, Problem> {
    let mut workload = workload(spec.replicas, spec.resources.as_ref(), ["50m", "64Mi", "256Mi"]);
    workload.template = template("api.podTemplate", spec.pod_template.as_ref())?;
    if let Some(asked) = &spec.autoscaling {
        let scaling = Scaling::new("api.autoscaling", asked.min_replicas, asked.max_replicas)?;
        workload.replicas = None;
        workload.scaling = Some(Scaling {
            cpu: Some(asked.target_cpu_utilization),
            ..scaling
        });
    }
    Ok(workload)
}

/// Checks `spec.relay`.
pub fn relay(spec: &RelaySpec) -> Result<Relay, Problem> {
    let mut workload = workload(spec.replicas, spec.resources.as_ref(), ["25m", "32Mi", "256Mi"]);
    workload.template = template("relay.podTemplate", spec.pod_template.as_ref())?;
    Ok(Relay {
        workload,
        batch_size: positive("relay.batchSize", spec.batch_size)?,
        poll_interval: duration("relay.pollInterval", &spec.poll_interval)?,
    })
}

/// Checks `spec.indexer`.
pub fn indexer(spec: &IndexerSpec) -> Result<Indexer, Problem> {
    let mut workload = workload(spec.replicas, spec.resources.as_ref(), ["25m", "48Mi", "256Mi"]);
    workload.template = template("indexer.podTemplate", spec.pod_template.as_ref())?;
    if let Some(asked) = &spec.autoscaling {
        let scaling = Scaling::new("indexer.autoscaling", asked.min_replicas, asked.max_replicas)?;
        workload.replicas = Some(scaling.min);
        workload.scaling = Some(scaling);
    }
    Ok(Indexer {
        workload,
        max_documents: positive("indexer.bulk.maxDocuments", spec.bulk.max_documents)?,
        max_bytes: positive("indexer.bulk.maxBytes", spec.bulk.max_bytes)?,
        max_delay: duration("indexer.bulk.maxDelay", &spec.bulk.max_delay)?,
    })
}

/// What the spec asks for, with defaults for what it leaves open: a request of CPU, a request and a limit of memory. CPU has
/// no limit by default, since throttling makes slow what idle cores could have served.
fn workload(
    replicas: i32,
    resources: Option<&Resources>,
    [cpu, memory, memory_limit]: [&str; 3],
) -> Workload {
    let asked = |map: fn(&Resources) -> &BTreeMap<String, Amount>| {
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
        replicas: Some(replicas),
        scaling: None,
        template: None,
        resources: ResourceRequirements {
            requests: some(requests),
            limits: some(limits),
            claims: None,
        },
    }
}

fn quantity(value: &Amount) -> Quantity {
    match value {
        Amount::Number(number) => Quantity(number.to_string()),
        Amount::Text(text) => Quantity(text.clone()),
    }
}
