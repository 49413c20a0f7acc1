//! What stands around the workloads: who may connect, how many there are, how they are watched and how callers get in.

use serde_json::{Value, json};

use crate::{cluster::PIPELINE, fixtures::full, world::World};

/// Each field of this part of the spec set, on a pipeline that is otherwise the smallest.
fn everything() -> Vec<(&'static str, Value)> {
    let full = full();
    vec![("networkPolicy", full["spec"]["networkPolicy"].clone())]
}

/// Another generation of the spec.
fn change(world: &World, edit: impl FnOnce(&mut Value)) {
    world.cluster.edit(PIPELINE, |pipeline| {
        edit(&mut pipeline["spec"]);
        let generation = pipeline["metadata"]["generation"].as_i64().unwrap();
        pipeline["metadata"]["generation"] = json!(generation + 1);
    });
}

#[tokio::test]
async fn all_of_it_is_written_once() {
    let mut world = World::ready(&everything()).await;
    world.pass().await.unwrap();
    assert_eq!(world.everything(), Vec::<String>::new());
    world.restart_operator();
    world.pass().await.unwrap();
    assert_eq!(world.everything(), Vec::<String>::new());
}

#[tokio::test]
async fn network_policies_that_are_turned_off_are_removed() {
    let world = World::ready(&[("networkPolicy", json!({ "enabled": true }))]).await;
    let found = world.cluster.paths("/networkpolicies/");
    let names: Vec<_> = found
        .iter()
        .map(|path| path.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(names, ["shop-api", "shop-indexer", "shop-migrate", "shop-relay"]);
    change(&world, |spec| spec["networkPolicy"]["enabled"] = json!(false));
    world.pass().await.unwrap();
    assert_eq!(world.cluster.paths("/networkpolicies/"), Vec::<String>::new());
}
