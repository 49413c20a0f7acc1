//! `spec.api.autoscaling` and `spec.indexer.autoscaling`.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::IndexerSpec;

/// Leaves the number of the API's replicas to a HorizontalPodAutoscaler, which needs the cluster's metrics-server.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas")
    .message("api.autoscaling.minReplicas is above api.autoscaling.maxReplicas: lower the first, or raise the second")
    .field_path(".minReplicas"))]
pub struct ApiAutoscalingSpec {
    /// The fewest replicas.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 100))]
    pub min_replicas: i32,

    /// The most replicas.
    #[schemars(range(min = 1, max = 100))]
    pub max_replicas: i32,

    /// CPU that the replicas are to use on average, in percent of what they request.
    #[serde(default = "target", rename = "targetCPUUtilization")]
    #[schemars(range(min = 1, max = 1000))]
    pub target_cpu_utilization: i32,
}

/// Has the operator choose the number of indexers by the lag: more while the events in Kafka would take longer than 5 s, as
/// fast as they were indexed lately; one fewer when the indexers have kept up for five minutes, longer where that
/// had to be taken back. Events that do not move (Elasticsearch away or refusing, replicas that are not ready) never lead to more.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas")
    .message("indexer.autoscaling.minReplicas is above indexer.autoscaling.maxReplicas: lower the first, or raise the second")
    .field_path(".minReplicas"))]
pub struct IndexerAutoscalingSpec {
    /// The fewest replicas.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 100))]
    pub min_replicas: i32,

    /// The most replicas; at most `kafka.topics.partitions`, since they share the partitions.
    #[schemars(range(min = 1, max = 100))]
    pub max_replicas: i32,
}

impl IndexerSpec {
    /// Whether no replica is asked for.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.autoscaling.is_none() && self.replicas == 0
    }
}

fn two() -> i32 {
    2
}

fn target() -> i32 {
    70
}
