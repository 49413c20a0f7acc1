//! What others change in the stores: told field by field, put right or left, by `driftPolicy`.

use serde_json::json;

use crate::{cluster::PIPELINE, world::World};

fn edit_a_topic(world: &World) {
    let mut topics = world.stores.topics.lock().unwrap();
    let topic = topics.get_mut("order.created").unwrap();
    topic.config.insert("retention.ms".into(), "1000".into());
}

fn message(world: &World) -> String {
    world.condition("DriftDetected")["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

const CONFIG: (&str, &str) = ("kafka/topics/config", "{\"retention.ms\":\"604800000\"}");

async fn ready(policy: &str) -> World {
    let config = serde_json::from_str(CONFIG.1).unwrap();
    World::ready(&[(CONFIG.0, config), ("driftPolicy", json!(policy))]).await
}

#[tokio::test]
async fn drift_is_put_right_and_told_once() {
    let mut world = ready("Correct").await;
    edit_a_topic(&world);
    world.pass().await.unwrap();
    assert_eq!(
        world.everything(),
        Vec::<String>::new(),
        "it was looked at a moment ago"
    );

    world.restart_operator();
    world.pass().await.unwrap();
    let done = world.everything();
    assert_eq!(
        done,
        ["topics", "event DriftCorrected store/events"],
        "the index is as it should be"
    );
    assert_eq!(world.reason("DriftDetected"), "False InSync");
    assert_eq!(
        world.stores.topics.lock().unwrap()["order.created"].config["retention.ms"],
        "604800000"
    );
}

#[tokio::test]
async fn observed_drift_is_told_and_left_until_the_spec_changes() {
    let mut world = ready("Observe").await;
    edit_a_topic(&world);
    world.stores.index.lock().unwrap().template.as_mut().unwrap()["priority"] = json!(1);
    world.restart_operator();
    world.pass().await.unwrap();
    assert_eq!(world.done(), Vec::<String>::new());
    assert_eq!(world.reason("DriftDetected"), "True Differs");
    assert_eq!(
        message(&world),
        "topic order.created: retention.ms is 1000, spec says 604800000; \
         index template orders: priority is 1, spec says 206. \
         driftPolicy: Observe leaves it; Correct puts back what can be put back"
    );
    assert_eq!(world.reason("Ready"), "True Running", "what runs, runs");

    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["spec"]["kafka"]["topics"]["partitions"] = json!(9);
        pipeline["metadata"]["generation"] = json!(2);
    });
    world.pass().await.unwrap();
    assert_eq!(world.reason("DriftDetected"), "False InSync");
    assert_eq!(world.stores.topics.lock().unwrap()["order.created"].partitions, 9);
    assert!(
        !world
            .everything()
            .iter()
            .any(|entry| entry.contains("DriftCorrected")),
        "the change of the spec did it"
    );
}

#[tokio::test]
async fn what_can_not_be_put_right_is_told_with_what_to_do() {
    let mut world = ready("Correct").await;
    world
        .stores
        .topics
        .lock()
        .unwrap()
        .get_mut("order.created")
        .unwrap()
        .partitions = 12;
    world.restart_operator();
    for _ in 0..2 {
        world.pass().await.unwrap();
    }
    assert_eq!(world.done(), Vec::<String>::new());
    assert_eq!(
        message(&world),
        "topic order.created: partitions are 12, spec says 6 \
         (Kafka can't take partitions away: set kafka.topics.partitions to 12)"
    );
    assert_eq!(world.reason("TopicsReady"), "True Created");
}

#[tokio::test]
async fn a_deleted_topic_is_made_anew_or_asked_for() {
    for (policy, reason) in [("Correct", "True Created"), ("Observe", "False TopicsFailed")] {
        let mut world = ready(policy).await;
        world.stores.topics.lock().unwrap().remove("order.created");
        world.restart_operator();
        assert_eq!(world.pass().await.is_ok(), policy == "Correct");
        assert_eq!(world.reason("TopicsReady"), reason);
        let is_back = world.stores.topics.lock().unwrap().contains_key("order.created");
        assert_eq!(is_back, policy == "Correct");
    }
}
