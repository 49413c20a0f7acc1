//! A pipeline that is fine says so: to `kubectl get`, `wait` and `explain`, and in every condition.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use commerce_e2e::{
    eventually::eventually,
    pipeline::CONDITIONS,
    scenario::{Outcome, scenario},
    stores,
};
use serde_json::Value;

#[tokio::test]
async fn every_condition_is_true_and_speaks_of_the_spec_as_it_is() -> Outcome {
    scenario(async |s| {
        let object = s.shop.object().await?;
        let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
        let conditions = s.shop.conditions().await?;
        for wanted in CONDITIONS {
            let condition = conditions
                .iter()
                .find(|c| c.type_ == wanted)
                .with_context(|| format!("no {wanted}"))?;
            ensure!(condition.status == "True", "{condition:?}");
            ensure!(
                condition.observed_generation == generation,
                "{condition:?} for generation {generation:?}"
            );
            ensure!(
                !condition.reason.is_empty() && !condition.message.is_empty(),
                "{condition:?}"
            );
        }
        ensure!(
            !conditions.iter().any(|c| c.type_ == "Suspended"),
            "it is not suspended: {conditions:?}"
        );

        let status = &object["status"];
        assert_eq!(status["observedGeneration"].as_i64(), generation);
        for component in ["api", "relay", "indexer"] {
            assert_eq!(
                status[component]["ready"], object["spec"][component]["replicas"],
                "{component} in {status}"
            );
        }
        let topics: Vec<_> = status["topics"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|t| &t["name"])
            .collect();
        assert_eq!(topics.len(), 4, "two topics and their dead letters: {topics:?}");
        let active = status["index"]["active"].as_str().unwrap_or_default();
        assert!(active.starts_with("orders-"), "{status}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn kubectl_can_wait_for_it_list_it_and_explain_it() -> Outcome {
    scenario(async |s| {
        let kubectl = &s.cluster.environment;
        kubectl
            .kubectl(&[
                "wait",
                "-n",
                "shop",
                "--for=condition=Ready",
                "cpl/shop",
                "--timeout=60s",
            ])
            .await?;

        // The operator asks how fresh orders are every half minute, and `make up` has just placed one.
        eventually("freshness is told", Duration::from_secs(90), async || {
            let object = s.shop.object().await?;
            ensure!(object.pointer("/status/freshness/p99").is_some(), "{object}");
            Ok(())
        })
        .await?;
        let table = kubectl.kubectl(&["get", "-n", "shop", "cpl"]).await?;
        let mut lines = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let (head, row) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let columns = [
            "NAME",
            "READY",
            "REASON",
            "FLOW",
            "BACKLOG",
            "LAG",
            "FRESHNESS",
            "AGE",
        ];
        assert_eq!(head, columns, "{table}");
        assert_eq!(row.len(), head.len(), "every column has a value: {table}");
        assert_eq!(row[..2], ["shop", "True"], "{table}");

        let explained = kubectl
            .kubectl(&["explain", "cpl.spec.kafka.topics.partitions"])
            .await?;
        assert!(explained.contains("never lowered"), "{explained}");
        let all = kubectl
            .kubectl(&["get", "-n", "shop", "commerce", "-o", "name"])
            .await?;
        assert_eq!(all.trim(), "commercepipeline.commerce.lab/shop", "its category");
        Ok(())
    })
    .await
}

/// A password in an argument, a variable, a status or an event can be read by people who may not read Secrets.
#[tokio::test]
async fn no_password_is_seen_outside_of_the_secrets() -> Outcome {
    scenario(async |s| {
        let passwords = [
            stores::secret(&s.cluster, "stores-postgres", "password").await?,
            stores::secret(&s.cluster, "stores-redis", "redis-password").await?,
            stores::secret(&s.cluster, "stores-elasticsearch", "elastic").await?,
        ];
        s.shop.keeps_quiet_about(&passwords).await
    })
    .await
}
