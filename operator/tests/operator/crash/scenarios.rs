//! What people do to pipelines, and what happens to the stores, while the operator dies.

use std::sync::OnceLock;

use commerce_operator::reconcile::names;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Outcome, Outside, Scenario, cases, disturbance};
use crate::cluster::PIPELINE;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/store/deployments/";
const SERVICE: &str = "/api/v1/namespaces/store/services/shop-api";
const SECRETS: &str = "/api/v1/namespaces/store/secrets/";

fn plain() -> Vec<(&'static str, Value)> {
    Vec::new()
}

fn with_ingress() -> Vec<(&'static str, Value)> {
    vec![("api/ingress", json!({ "host": "orders.example.com" }))]
}

fn with_delete() -> Vec<(&'static str, Value)> {
    vec![("deletionPolicy", json!("Delete"))]
}

fn new_image(outside: &Outside) {
    outside.change(|spec| {
        spec["image"]["tag"] = json!("2.0.0");
        spec["api"]["replicas"] = json!(3);
    });
}

/// A scenario, and its two tests: with one fault, exhaustively, and with any number of them.
macro_rules! scenario {
    ($name:ident, $scenario:expr) => {
        mod $name {
            use super::*;

            const SCENARIO: Scenario = $scenario;

            #[tokio::test]
            async fn survives_everything_once() {
                SCENARIO.survives_everything_once().await;
            }

            proptest! {
                #![proptest_config(ProptestConfig { max_shrink_iters: 200, failure_persistence: None, ..cases() })]

                #[test]
                fn survives_any_number_of_faults(disturbance in disturbance()) {
                    static EXPECTED: OnceLock<Outcome> = OnceLock::new();
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    let expected = EXPECTED.get_or_init(|| runtime.block_on(SCENARIO.undisturbed()));
                    let outcome = runtime.block_on(SCENARIO.disturbed(&disturbance));
                    pretty_assertions::assert_eq!(expected, &outcome);
                }
            }
        }
    };
}

scenario!(
    creation,
    Scenario {
        spec: plain,
        steps: &[],
        overlaps: true
    }
);

scenario!(
    change,
    Scenario {
        spec: with_ingress,
        steps: &[new_image, |outside| outside.change(|spec| {
            spec["api"].as_object_mut().unwrap().shift_remove("ingress");
            spec["relay"]["batchSize"] = json!(50);
        })],
        overlaps: true,
    }
);

scenario!(
    secret_rotation,
    Scenario {
        spec: plain,
        steps: &[|outside| outside.cluster.edit(&format!("{SECRETS}pg"), |secret| {
            // postgresql://app:new@pg:5432/app
            secret["data"]["uri"] = json!("cG9zdGdyZXNxbDovL2FwcDpuZXdAcGc6NTQzMi9hcHA=");
        })],
        overlaps: true,
    }
);

scenario!(
    secret_that_is_gone_for_a_while,
    Scenario {
        spec: plain,
        steps: &[
            |outside| outside.cluster.remove(&format!("{SECRETS}cache")),
            |outside| {
                let secret = crate::fixtures::all_secrets()
                    .into_iter()
                    .find(|secret| secret.metadata.name.as_deref() == Some("cache"));
                outside
                    .cluster
                    .put(&format!("{SECRETS}cache"), serde_json::to_value(secret).unwrap());
            }
        ],
        overlaps: true,
    }
);

scenario!(
    suspension,
    Scenario {
        spec: plain,
        steps: &[
            |outside| outside.change(|spec| {
                spec["suspend"] = json!(true);
                spec["indexer"]["replicas"] = json!(3);
            }),
            |outside| outside.cluster.remove(SERVICE),
            |outside| outside.change(|spec| spec["suspend"] = json!(false)),
        ],
        overlaps: true,
    }
);

scenario!(
    children_edited_and_deleted,
    Scenario {
        spec: plain,
        steps: &[
            |outside| outside.cluster.remove(&format!("{DEPLOYMENTS}shop-relay")),
            |outside| {
                let path = format!("{DEPLOYMENTS}shop-api");
                if outside.cluster.get(&path).is_some() {
                    outside
                        .cluster
                        .edit(&path, |deployment| deployment["spec"]["replicas"] = json!(7));
                }
            },
            |outside| outside.cluster.remove(SERVICE),
        ],
        overlaps: true,
    }
);

scenario!(
    store_away,
    Scenario {
        spec: plain,
        steps: &[
            |outside| outside.stores.take_away(&["Kafka", "Redis"]),
            new_image,
            |outside| outside.stores.take_away(&[]),
        ],
        overlaps: true,
    }
);

scenario!(
    deletion_with_retain,
    Scenario {
        spec: plain,
        steps: &[Outside::delete],
        // What the stores hold depends on how far it came.
        overlaps: false,
    }
);

scenario!(
    deletion_with_delete,
    Scenario {
        spec: with_delete,
        steps: &[Outside::delete],
        overlaps: true,
    }
);

scenario!(
    deletion_while_a_store_is_away,
    Scenario {
        spec: with_delete,
        steps: &[
            |outside| outside.stores.take_away(&["Elasticsearch"]),
            Outside::delete,
            |outside| outside.stores.take_away(&[]),
        ],
        overlaps: true,
    }
);

scenario!(
    deletion_that_gives_up_on_a_store,
    Scenario {
        spec: with_delete,
        steps: &[
            |outside| outside.stores.take_away(&["Elasticsearch"]),
            Outside::delete,
            |outside| {
                if outside.cluster.get(PIPELINE).is_some() {
                    outside.cluster.edit(PIPELINE, |pipeline| {
                        pipeline["metadata"]["annotations"] = json!({ names::ABANDON: "true" });
                    });
                }
            },
        ],
        // The index is left where there was one.
        overlaps: false,
    }
);
