//! A pipeline that is fine says so: to `kubectl get`, `wait` and `explain`, and in every condition.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use commerce_e2e::{
    eventually::eventually,
    pipeline::CONDITIONS,
    scenario::{Outcome, scenario},
    stores,
};
use serde_json::{Value, json};

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
            conditions
                .iter()
                .any(|c| c.type_ == "Suspended" && c.status == "False"),
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

/// Whoever reads the object back sees what holds, whether it was said or not.
#[tokio::test]
async fn what_a_spec_leaves_out_is_filled_in() -> Outcome {
    scenario(async |s| {
        let least = json!({
            "apiVersion": "commerce.lab/v1alpha1",
            "kind": "CommercePipeline",
            "metadata": {"name": "least", "namespace": "shop"},
            "spec": {
                "image": {"registry": "registry.example", "tag": "1"},
                "postgres": {"secretRef": {"name": "postgres"}},
                "kafka": {"bootstrapServers": "kafka:9092"},
                "elasticsearch": {"url": "http://search:9200"},
                "redis": {"secretRef": {"name": "redis"}},
            },
        });
        let create = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
        let environment = &s.cluster.environment;
        let stored = environment
            .run_with_input("kubectl", &create, &least.to_string())
            .await?;
        let stored: Value = serde_json::from_str(&stored)?;
        for (place, expected) in [
            ("/deletionPolicy", json!("Retain")),
            ("/driftPolicy", json!("Correct")),
            ("/suspend", json!(false)),
            ("/imagePullPolicy", json!("IfNotPresent")),
            ("/postgres/secretRef/key", json!("uri")),
            ("/postgres/migrations", json!("Auto")),
            ("/kafka/topics/partitions", json!(6)),
            ("/elasticsearch/index/name", json!("orders")),
            ("/elasticsearch/index/refreshInterval", json!("30s")),
            ("/redis/searchCacheTtl", json!("30s")),
            ("/api/replicas", json!(2)),
            ("/relay/batchSize", json!(5000)),
            ("/indexer/bulk/maxDelay", json!("50ms")),
        ] {
            assert_eq!(stored["spec"].pointer(place), Some(&expected), "{place}");
        }
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
