//! A run of one of the project's load scripts inside the cluster, by the chart `k6`.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    cluster::{Cluster, JOBS},
    eventually::eventually,
    scenario::Scenario,
};

/// A Job that runs a script against `shop`, in a namespace of its own, which goes after the scenario.
#[derive(Debug)]
pub struct K6 {
    cluster: Cluster,
    namespace: String,
    job: String,
}

impl K6 {
    pub async fn start(s: &Scenario, script: &str, values: &[&str]) -> Result<Self> {
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
        let sets = [
            format!("script={script}"),
            "baseUrl=http://shop-api.shop.svc".to_owned(),
            format!("image.repository={repository}"),
            format!("image.tag={tag}"),
        ];
        let mut arguments = vec!["install", script, &chart, "-n", &namespace];
        for set in sets.iter().map(String::as_str).chain(values.iter().copied()) {
            arguments.extend(["--set", set]);
        }
        environment.helm(&arguments).await?;
        Ok(Self {
            cluster: s.cluster.clone(),
            job: format!("{script}-1"),
            namespace,
        })
    }

    /// Whether it still sends requests.
    pub async fn runs(&self) -> Result<bool> {
        Ok(ended(&self.object().await?).is_none())
    }

    /// Waits until it has ended, and fails where it missed one of its thresholds.
    pub async fn passes(&self, bound: Duration) -> Result<()> {
        let job = eventually("k6 has finished", bound, async || {
            let job = self.object().await?;
            ensure!(ended(&job).is_some(), "its status is {}", job["status"]);
            Ok(job)
        })
        .await?;
        let log = self.log("k6").await?;
        ensure!(ended(&job) == Some("Complete"), "k6 did not pass:\n{log}");
        Ok(())
    }

    /// What one of its containers has printed.
    pub async fn log(&self, container: &str) -> Result<String> {
        let job = format!("job/{}", self.job);
        let arguments = ["logs", "-n", &self.namespace, &job, "-c", container];
        self.cluster.environment.kubectl(&arguments).await
    }

    async fn object(&self) -> Result<Value> {
        self.cluster.get(JOBS, &self.namespace, &self.job).await
    }
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
