//! What people do to pipelines, and what happens to the stores, while the operator dies.

use std::sync::OnceLock;

use commerce_operator::reconcile::{
    names,
    services::{RelayState, RelayStatus},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{A_MOMENT, A_WHILE, BROKEN, Outcome, Outside, Scenario, cases, disturbance};
use crate::{
    cluster::PIPELINE,
    fixtures::{all_secrets, minimal, stored},
    services::{active, idle},
};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/store/deployments/";
const SERVICE: &str = "/api/v1/namespaces/store/services/shop-api";
const SECRETS: &str = "/api/v1/namespaces/store/secrets/";
const OLDER: &str = "/apis/commerce.lab/v1alpha1/namespaces/store/commercepipelines/early";

/// A pipeline is applied, and stays as it is.
const PLAIN: Scenario = Scenario {
    spec: Vec::new,
    steps: &[],
    overlaps: true,
    within: A_MOMENT,
    known: &[],
};

fn with_ingress() -> Vec<(&'static str, Value)> {
    vec![("api/ingress", json!({ "host": "orders.example.com" }))]
}

fn with_delete() -> Vec<(&'static str, Value)> {
    vec![("deletionPolicy", json!("Delete"))]
}

fn with_topic_config() -> Vec<(&'static str, Value)> {
    vec![("kafka/topics/config", json!({ "retention.ms": "604800000" }))]
}

fn with_observe() -> Vec<(&'static str, Value)> {
    let mut changes = with_topic_config();
    changes.push(("driftPolicy", json!("Observe")));
    changes
}

fn new_image(outside: &Outside) {
    outside.change(|spec| {
        spec["image"]["tag"] = json!("2.0.0");
        spec["api"]["replicas"] = json!(3);
    });
}

/// Another mapping, with this field.
fn with_field(outside: &Outside, name: &str) {
    outside.change(|spec| {
        spec["elasticsearch"]["index"]["mappings"] = json!({ "properties": { name: { "type": "keyword" } } });
    });
}

/// It turns out that somebody had the topics before, and nothing else.
fn older_pipeline(outside: &Outside) {
    let elsewhere = [
        ("postgres/secretRef/name", json!("pg-app")),
        ("elasticsearch/index/name", json!("early")),
    ];
    let mut older = stored(&minimal(), &elsewhere);
    older["metadata"]["name"] = json!("early");
    older["metadata"]["uid"] = json!("0001");
    outside.cluster.put(OLDER, older);
    // Without a time it counts as the first of all.
    if outside.cluster.get(PIPELINE).is_some() {
        outside.cluster.edit(PIPELINE, |pipeline| {
            pipeline["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
    }
}

/// A scenario, and its two tests: with one fault, exhaustively, and with any number of them.
macro_rules! scenario {
    ($name:ident, $scenario:expr) => {
        mod $name {
            use super::*;

            const SCENARIO: Scenario = $scenario;

            #[tokio::test(start_paused = true)]
            async fn survives_everything_once() {
                SCENARIO.survives_everything_once().await;
            }

            proptest! {
                #![proptest_config(ProptestConfig { max_shrink_iters: 200, failure_persistence: None, ..cases() })]

                #[test]
                fn survives_any_number_of_faults(disturbance in disturbance()) {
                    static EXPECTED: OnceLock<Outcome> = OnceLock::new();
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
                    let expected = EXPECTED.get_or_init(|| runtime.block_on(SCENARIO.undisturbed()));
                    let outcome = runtime.block_on(SCENARIO.disturbed(&disturbance));
                    pretty_assertions::assert_eq!(expected, &outcome);
                }
            }
        }
    };
}

scenario!(creation, PLAIN);

scenario!(
    change,
    Scenario {
        spec: with_ingress,
        steps: &[new_image, |outside| outside.change(|spec| {
            spec["api"].as_object_mut().unwrap().shift_remove("ingress");
            spec["relay"]["batchSize"] = json!(50);
        })],
        ..PLAIN
    }
);

scenario!(
    secret_rotation,
    Scenario {
        steps: &[|outside| outside.cluster.edit(&format!("{SECRETS}pg"), |secret| {
            // postgresql://app:new@pg:5432/app
            secret["data"]["uri"] = json!("cG9zdGdyZXNxbDovL2FwcDpuZXdAcGc6NTQzMi9hcHA=");
        })],
        ..PLAIN
    }
);

scenario!(
    secret_that_is_gone_for_a_while,
    Scenario {
        steps: &[
            |outside| outside.cluster.remove(&format!("{SECRETS}cache")),
            |outside| outside.cluster.remove(&format!("{DEPLOYMENTS}shop-relay")),
            |outside| {
                let secret = all_secrets()
                    .into_iter()
                    .find(|secret| secret.metadata.name.as_deref() == Some("cache"));
                outside
                    .cluster
                    .put(&format!("{SECRETS}cache"), serde_json::to_value(secret).unwrap());
            }
        ],
        ..PLAIN
    }
);

scenario!(
    suspension,
    Scenario {
        steps: &[
            |outside| outside.change(|spec| {
                spec["suspend"] = json!(true);
                spec["indexer"]["replicas"] = json!(3);
            }),
            |outside| outside.cluster.remove(SERVICE),
            |outside| outside.change(|spec| spec["suspend"] = json!(false)),
        ],
        ..PLAIN
    }
);

scenario!(
    children_edited_and_deleted,
    Scenario {
        steps: &[
            |outside| outside.cluster.remove(&format!("{DEPLOYMENTS}shop-relay")),
            |outside| {
                outside.change_spec(&format!("{DEPLOYMENTS}shop-api"), |spec| {
                    spec["replicas"] = json!(7);
                });
            },
            |outside| outside.cluster.remove(SERVICE),
        ],
        ..PLAIN
    }
);

scenario!(
    version_that_never_becomes_ready,
    Scenario {
        steps: &[
            |outside| outside.change(|spec| spec["image"]["tag"] = json!(BROKEN)),
            |outside| outside.cluster.remove(&format!("{DEPLOYMENTS}shop-api")),
            |outside| {
                outside.change_spec(&format!("{DEPLOYMENTS}shop-relay"), |spec| {
                    spec["template"]["spec"]["containers"][0]["image"] = json!("elsewhere:9");
                });
            },
            |outside| outside.change(|spec| spec["relay"]["batchSize"] = json!(50)),
            |outside| outside.change(|spec| spec["image"]["tag"] = json!("1.2.3")),
        ],
        ..PLAIN
    }
);

scenario!(
    version_taken_back,
    Scenario {
        steps: &[
            new_image,
            |outside| outside.change(|spec| spec["image"]["tag"] = json!("1.2.3")),
            |outside| outside.stores.take_away(&["Elasticsearch"]),
            |outside| outside.change(|spec| spec["indexer"]["replicas"] = json!(3)),
            |outside| outside.cluster.remove(&format!("{DEPLOYMENTS}shop-indexer")),
            |outside| outside.stores.take_away(&[]),
        ],
        known: &[1],
        ..PLAIN
    }
);

scenario!(
    topics_and_index_that_others_change,
    Scenario {
        spec: with_topic_config,
        steps: &[
            |outside| {
                if let Some(topic) = outside.stores.topics.lock().unwrap().get_mut("order.created") {
                    topic.config.insert("retention.ms".into(), "1000".into());
                }
            },
            |outside| {
                outside.stores.topics.lock().unwrap().remove("order.cancelled");
                outside.stores.index.lock().unwrap().template = None;
            },
            |outside| outside.change(|spec| spec["driftPolicy"] = json!("Observe")),
            |outside| outside.change(|spec| spec["kafka"]["topics"]["partitions"] = json!(9)),
        ],
        within: A_WHILE,
        ..PLAIN
    }
);

scenario!(
    drift_that_is_observed,
    Scenario {
        spec: with_observe,
        steps: &[
            |outside| {
                if let Some(topic) = outside.stores.topics.lock().unwrap().get_mut("order.created") {
                    topic.config.insert("retention.ms".into(), "1000".into());
                }
            },
            |outside| {
                outside.stores.topics.lock().unwrap().remove("order.cancelled");
            },
            new_image,
        ],
        // What is put right with a change of the spec depends on what was there before it.
        overlaps: false,
        within: A_WHILE,
        known: &[3],
    }
);

scenario!(
    older_pipeline_that_has_the_same_topics,
    Scenario {
        steps: &[older_pipeline, new_image, |outside| outside.cluster.remove(OLDER),],
        known: &[3],
        ..PLAIN
    }
);

scenario!(
    deletion_beside_an_older_pipeline_that_has_the_same_topics,
    Scenario {
        spec: with_delete,
        steps: &[older_pipeline, Outside::delete,],
        // Topics that were not made yet are not there to be left.
        overlaps: false,
        ..PLAIN
    }
);

scenario!(
    orders_that_do_not_flow_for_a_while,
    Scenario {
        steps: &[
            |outside| *outside.services.relay.lock().unwrap() = Ok(idle(RelayState::Standby)),
            |outside| {
                let parked = RelayStatus {
                    parked: Some(3),
                    ..active(7, 0.5)
                };
                *outside.services.relay.lock().unwrap() = Ok(parked);
            },
            new_image,
            |outside| *outside.services.relay.lock().unwrap() = Ok(active(0, 0.0)),
        ],
        known: &[3],
        ..PLAIN
    }
);

scenario!(
    mapping_that_changes_and_changes_back,
    Scenario {
        steps: &[
            |outside| with_field(outside, "note"),
            |outside| with_field(outside, "channel"),
            |outside| {
                outside.change(|spec| {
                    spec["elasticsearch"]["index"]
                        .as_object_mut()
                        .unwrap()
                        .shift_remove("mappings");
                });
            },
        ],
        ..PLAIN
    }
);

scenario!(
    deletion_while_an_index_is_filled,
    Scenario {
        spec: with_delete,
        steps: &[|outside| with_field(outside, "note"), Outside::delete],
        known: &[1],
        ..PLAIN
    }
);

scenario!(
    store_away,
    Scenario {
        steps: &[
            |outside| outside.stores.take_away(&["Kafka", "Redis"]),
            new_image,
            |outside| outside.stores.take_away(&[]),
        ],
        ..PLAIN
    }
);

scenario!(
    deletion_with_retain,
    Scenario {
        steps: &[Outside::delete],
        // What the stores hold depends on how far it came.
        overlaps: false,
        ..PLAIN
    }
);

scenario!(
    deletion_with_delete,
    Scenario {
        spec: with_delete,
        steps: &[Outside::delete],
        ..PLAIN
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
        ..PLAIN
    }
);

/// Somebody else has marked the tables, while there are some, and the spec changes.
fn marked(outside: &Outside, uid: &str, generation: i64) {
    if let Some(owner) = &mut outside.stores.marks.lock().unwrap().schema {
        uid.clone_into(&mut owner.uid);
        owner.generation = generation;
        "c2".clone_into(&mut owner.cluster);
    }
    new_image(outside);
}

scenario!(
    stores_that_another_clusters_pipeline_takes_over,
    Scenario {
        spec: || vec![("kafka/deletionPolicy", json!("Delete"))],
        steps: &[
            |outside| marked(outside, "77aa", 1),
            |outside| outside.cluster.edit(PIPELINE, |pipeline| {
                pipeline["metadata"]["annotations"] = json!({ names::ADOPT: "true" });
            }),
            |outside| {
                outside.cluster.edit(PIPELINE, |pipeline| {
                    pipeline["metadata"]["annotations"] = json!({});
                });
                marked(outside, "77aa", 1);
                outside.delete();
            },
        ],
        // Nobody takes over what is not there yet.
        overlaps: false,
        ..PLAIN
    }
);

scenario!(
    operator_that_was_replaced,
    Scenario {
        steps: &[
            |outside| marked(outside, "8c1f", 4),
            |outside| outside.change(|spec| spec["relay"]["batchSize"] = json!(50)),
            |outside| outside.change(|spec| spec["relay"]["batchSize"] = json!(60)),
        ],
        overlaps: false,
        known: &[2],
        ..PLAIN
    }
);

scenario!(
    deletion_with_a_policy_for_each_store,
    Scenario {
        spec: || vec![
            ("kafka/deletionPolicy", json!("Delete")),
            ("elasticsearch/deletionPolicy", json!("Delete"))
        ],
        steps: &[
            |outside| outside.stores.take_away(&["Kafka", "PostgreSQL"]),
            Outside::delete,
            |outside| outside.change(|spec| spec["postgres"]["deletionPolicy"] = json!("Delete")),
            |outside| outside.stores.take_away(&[]),
        ],
        // What PostgreSQL holds depends on how far it came.
        overlaps: false,
        ..PLAIN
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
        ..PLAIN
    }
);
