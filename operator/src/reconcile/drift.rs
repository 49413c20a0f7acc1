//! What others have changed in Kafka and Elasticsearch: whether it is put right, and how it is told. Pure.

use commerce_core::{drift::Difference, index::Found, topics};

use super::{status::Finding, validate::Pipeline};
use crate::crd::DriftPolicy;

/// Differences that are told one by one.
const TOLD: usize = 20;

/// The policy that holds for a pass. What differs from a spec that has not been carried out yet is no drift.
#[must_use]
pub fn policy(pipeline: &Pipeline, prepared_for: Option<&String>) -> DriftPolicy {
    if prepared_for == Some(&pipeline.inputs) {
        pipeline.drift_policy
    } else {
        DriftPolicy::Correct
    }
}

/// Where the topics are not as the spec says.
#[must_use]
pub fn of_topics(
    pipeline: &Pipeline,
    found: &std::collections::BTreeMap<String, topics::Topic>,
) -> Vec<Difference> {
    topics::differences(&pipeline.kafka.connect, &pipeline.kafka.topics, found)
}

/// Where template, index and alias are not as the spec says.
#[must_use]
pub fn of_index(pipeline: &Pipeline, found: &Found) -> Vec<Difference> {
    found.differences(&pipeline.elasticsearch.index)
}

/// What is to be put right now, and what is left to be told.
#[must_use]
pub fn sort(policy: DriftPolicy, differences: Vec<Difference>) -> (Vec<Difference>, Vec<Difference>) {
    differences
        .into_iter()
        .partition(|difference| policy == DriftPolicy::Correct && difference.stays.is_none())
}

/// The condition `DriftDetected`.
#[must_use]
pub fn condition(left: &[Difference], policy: DriftPolicy) -> Finding {
    if left.is_empty() {
        return Finding::no(
            "InSync",
            "topics, index template, index and alias are as the spec says",
        );
    }
    let mut message = list(left);
    if policy == DriftPolicy::Observe {
        message.push_str(". driftPolicy: Observe leaves it; Correct puts back what can be put back");
    }
    Finding::yes("Differs", message)
}

/// The differences in one line.
#[must_use]
pub fn list(differences: &[Difference]) -> String {
    let told: Vec<_> = differences.iter().take(TOLD).map(ToString::to_string).collect();
    let more = match differences.len().saturating_sub(TOLD) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("{}{more}", told.join("; "))
}
