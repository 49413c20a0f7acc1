//! The chart `k6` runs the project's scripts inside the cluster, and its Job tells whether they passed.

use std::time::Duration;

use anyhow::ensure;
use commerce_e2e::{
    cluster::JOBS,
    eventually::eventually,
    scenario::{Outcome, scenario},
};
use serde_json::Value;
use uuid::Uuid;

const FINISHED: Duration = Duration::from_mins(2);

#[tokio::test]
async fn the_smoke_script_passes_in_the_cluster() -> Outcome {
    scenario(async |s| {
        let environment = &s.cluster.environment;
        let namespace = format!("e2e-k6-{}", &Uuid::new_v4().simple().to_string()[..6]);
        s.cluster.create_namespace(&namespace).await?;
        s.involve(&namespace);
        let (cluster, removed) = (s.cluster.clone(), namespace.clone());
        s.afterwards("removing the namespace of k6", async move {
            cluster.delete_namespace(&removed, Duration::from_mins(1)).await
        });

        let (repository, tag) = environment.image("k6")?;
        let chart = environment.chart("k6");
        let (repository, tag) = (
            format!("image.repository={repository}"),
            format!("image.tag={tag}"),
        );
        let target = "baseUrl=http://shop-api.shop.svc";
        let values = [
            "--set",
            "script=smoke",
            "--set",
            target,
            "--set",
            &repository,
            "--set",
            &tag,
        ];
        environment
            .helm(&[["install", "smoke", &chart, "-n", &namespace].as_slice(), &values].concat())
            .await?;

        let job = eventually("k6 has finished", FINISHED, async || {
            let job = s.cluster.get(JOBS, &namespace, "smoke-1").await?;
            ensure!(ended(&job).is_some(), "its status is {}", job["status"]);
            Ok(job)
        })
        .await?;
        let log = environment
            .kubectl(&["logs", "-n", &namespace, "job/smoke-1", "-c", "k6"])
            .await?;
        ensure!(ended(&job) == Some("Complete"), "k6 did not pass:\n{log}");

        // Its results can be fetched although it has ended: a gzipped archive in base64.
        let results = environment
            .kubectl(&["logs", "-n", &namespace, "job/smoke-1", "-c", "results"])
            .await?;
        ensure!(
            results.starts_with("H4sI"),
            "the results are no archive: {results:.100}"
        );
        Ok(())
    })
    .await
}

/// `Complete` or `Failed`, when the Job is one of them.
fn ended(job: &Value) -> Option<&str> {
    let conditions = job.pointer("/status/conditions")?.as_array()?;
    let holds = conditions
        .iter()
        .filter(|condition| condition["status"] == "True");
    holds
        .filter_map(|condition| condition["type"].as_str())
        .find(|kind| matches!(*kind, "Complete" | "Failed"))
}
