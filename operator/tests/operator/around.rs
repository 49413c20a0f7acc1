//! What stands around the workloads: who may connect, how many there are, how they are watched and how callers get in.

use std::collections::BTreeMap;

use commerce_operator::reconcile::kinds::Kind;
use serde_json::{Value, json};

use crate::{
    cluster::PIPELINE,
    fixtures::{full, secret},
    world::World,
};

/// Each field of this part of the spec set, on a pipeline that is otherwise the smallest.
fn everything() -> Vec<(&'static str, Value)> {
    let full = full();
    let of = |pointer: &str| full["spec"].pointer(pointer).unwrap().clone();
    vec![
        ("networkPolicy", of("/networkPolicy")),
        ("api/autoscaling", of("/api/autoscaling")),
        ("api/resources", of("/api/resources")),
        (
            "indexer/autoscaling",
            json!({ "minReplicas": 2, "maxReplicas": 6 }),
        ),
        ("monitoring", of("/monitoring")),
        ("api/gateway", of("/api/gateway")),
        ("relay/podTemplate", of("/relay/podTemplate")),
        ("priorityClassName", of("/priorityClassName")),
    ]
}

/// Somebody installs the definitions that not every cluster has.
pub fn install_kinds(world: &World) {
    let mut groups = BTreeMap::<_, Vec<_>>::new();
    for kind in Kind::ALL {
        let is = kind.resource();
        let resource = json!({ "name": is.plural, "singularName": "", "namespaced": true, "kind": is.kind, "verbs": ["list"] });
        groups.entry(is.api_version).or_default().push(resource);
    }
    for (version, resources) in groups {
        let list = json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources });
        world.cluster.put(&format!("/apis/{version}"), list);
    }
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
    install_kinds(&world);
    world.context.memory.has_kinds(Kind::ALL.into_iter().collect());
    world.pass().await.unwrap();
    let done = world.done();
    assert_eq!(
        done,
        [
            "apply podmonitors/shop",
            "apply prometheusrules/shop",
            "apply httproutes/shop"
        ]
    );
    world.everything();
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
    assert_eq!(
        names,
        [
            "shop-api",
            "shop-indexer",
            "shop-migrate",
            "shop-reindex",
            "shop-relay"
        ]
    );
    change(&world, |spec| spec["networkPolicy"]["enabled"] = json!(false));
    world.pass().await.unwrap();
    assert_eq!(world.cluster.paths("/networkpolicies/"), Vec::<String>::new());
}

const INDEXER: &str = "/apis/apps/v1/namespaces/store/deployments/shop-indexer";
const API: &str = "/apis/apps/v1/namespaces/store/deployments/shop-api";
const AUTOSCALER: &str = "/apis/autoscaling/v2/namespaces/store/horizontalpodautoscalers/shop-api";

fn replicas(world: &World) -> i64 {
    world.cluster.get(API).unwrap()["spec"]["replicas"]
        .as_i64()
        .unwrap()
}

fn autoscaled() -> Vec<(&'static str, Value)> {
    vec![
        ("api/resources", json!({ "requests": { "cpu": "500m" } })),
        ("api/autoscaling", json!({ "minReplicas": 2, "maxReplicas": 9 })),
    ]
}

#[tokio::test]
async fn the_number_of_replicas_is_left_to_an_autoscaler() {
    let world = World::ready(&autoscaled()).await;
    assert_eq!(replicas(&world), 2, "as many as it begins with");
    world.cluster.edit(API, |api| api["spec"]["replicas"] = json!(7));
    world.pass().await.unwrap();
    assert_eq!(world.done(), Vec::<String>::new());
    assert_eq!(replicas(&world), 7);
    assert_eq!(world.reason("Ready"), "True Running", "two are enough");

    // What no autoscaler would touch is put right.
    world.cluster.edit(API, |api| api["spec"]["replicas"] = json!(0));
    world.pass().await.unwrap();
    assert_eq!(replicas(&world), 2);
    world.cluster.remove(API);
    world.pass().await.unwrap();
    assert_eq!(replicas(&world), 2);
}

#[tokio::test]
async fn replicas_survive_the_change_to_an_autoscaler_and_back() {
    let world = World::ready(&[("api/replicas", json!(5))]).await;
    change(&world, |spec| {
        for (pointer, value) in autoscaled() {
            spec["api"][pointer.trim_start_matches("api/")] = value;
        }
    });
    world.pass().await.unwrap();
    assert_eq!(replicas(&world), 5, "not the default of a field that nobody sets");
    assert!(world.cluster.get(AUTOSCALER).is_some());
    world.cluster.edit(API, |api| api["spec"]["replicas"] = json!(8));
    change(&world, |spec| {
        drop(spec["api"].as_object_mut().unwrap().remove("autoscaling"));
    });
    world.done();
    world.pass().await.unwrap();
    let done = world.done();
    let at = |entry: &str| done.iter().position(|done| done == entry).unwrap();
    assert!(
        at("delete horizontalpodautoscalers/shop-api") < at("apply deployments/shop-api"),
        "{done:?}"
    );
    assert_eq!(replicas(&world), 5);
}

#[tokio::test]
async fn while_an_autoscaler_adds_replicas_the_pipeline_is_ready() {
    let world = World::ready(&autoscaled()).await;
    world.cluster.edit(API, |api| {
        api["spec"]["replicas"] = json!(4);
        api["status"]["replicas"] = json!(4);
        api["status"]["updatedReplicas"] = json!(4);
    });
    world.pass().await.unwrap();
    assert_eq!(world.reason("Ready"), "True Running");
    let condition = world.condition("ApiAvailable");
    assert_eq!(condition["message"], "2 of 4 replicas are ready");
    world
        .cluster
        .edit(API, |api| api["status"]["availableReplicas"] = json!(1));
    world.pass().await.unwrap();
    assert_eq!(
        world.reason("ApiAvailable"),
        "False Starting",
        "fewer than are enough"
    );
}

#[tokio::test]
async fn the_number_of_indexers_is_kept_between_its_bounds_and_otherwise_as_it_was() {
    let world = World::ready(&[(
        "indexer/autoscaling",
        json!({ "minReplicas": 2, "maxReplicas": 4 }),
    )])
    .await;
    for (edited, kept) in [(9, 4), (0, 2), (3, 3)] {
        world
            .cluster
            .edit(INDEXER, |indexer| indexer["spec"]["replicas"] = json!(edited));
        world.pass().await.unwrap();
        assert_eq!(world.cluster.get(INDEXER).unwrap()["spec"]["replicas"], kept);
        world.cluster.start_pods();
        world.pass().await.unwrap();
        world.everything();
        world.pass().await.unwrap();
        assert_eq!(world.everything(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn kinds_that_the_cluster_does_not_have_are_told_and_made_once_it_has_them() {
    let monitoring = json!({ "podMonitor": {}, "alerts": {}, "dashboards": {} });
    let mut world = World::ready(&[("monitoring", monitoring)]).await;
    assert_eq!(
        world.cluster.paths("/configmaps/").len(),
        1,
        "every cluster has this kind"
    );
    assert_eq!(world.reason("IntegrationsMissing"), "True KindMissing");
    let message = world.condition("IntegrationsMissing")["message"].clone();
    for part in [
        "monitoring.podMonitor asks for a PodMonitor",
        "install the definitions of the Prometheus Operator",
        "or remove monitoring.alerts",
    ] {
        assert!(message.as_str().unwrap().contains(part), "{message}");
    }
    world.everything();
    world.pass().await.unwrap();
    assert_eq!(world.everything(), Vec::<String>::new());

    install_kinds(&world);
    // It is not asked again at once, but soon; an operator that has just started asks.
    world.restart_operator();
    world.pass().await.unwrap();
    assert_eq!(
        world.done(),
        ["apply podmonitors/shop", "apply prometheusrules/shop"]
    );
    assert_eq!(world.condition("IntegrationsMissing"), Value::Null);

    change(&world, |spec| {
        drop(spec.as_object_mut().unwrap().remove("monitoring"));
    });
    world.pass().await.unwrap();
    for path in ["/configmaps/", "/podmonitors/", "/prometheusrules/"] {
        assert_eq!(world.cluster.paths(path), Vec::<String>::new());
    }
}

#[tokio::test]
async fn the_address_is_that_of_the_route_where_there_is_one() {
    let url = |world: &World| world.cluster.get(PIPELINE).unwrap()["status"]["url"].clone();
    let gateway = full()["spec"]["api"]["gateway"].clone();
    let mut world = World::ready(&[("api/gateway", gateway)]).await;
    assert_eq!(url(&world), "http://shop-api.store.svc", "the kind is missing");
    install_kinds(&world);
    world.restart_operator();
    world.pass().await.unwrap();
    assert_eq!(url(&world), "https://orders.example.com");
    assert_eq!(
        world.condition("Ready")["message"],
        "takes orders at https://orders.example.com/orders"
    );

    // What is not looked at stays as it was.
    world.cluster.remove("/api/v1/namespaces/store/secrets/cache");
    world.pass().await.unwrap_err();
    assert_eq!(url(&world), "https://orders.example.com");

    change(&world, |spec| {
        spec["api"]["gateway"]["hostnames"] = json!(["*.example.com"]);
    });
    world.cluster.put(
        "/api/v1/namespaces/store/secrets/cache",
        serde_json::to_value(secret("cache", &[("uri", "redis://cache")])).unwrap(),
    );
    world.pass().await.unwrap();
    assert_eq!(url(&world), "http://shop-api.store.svc");
}

/// As when the server behind an aggregated API is down.
#[tokio::test]
async fn a_group_that_can_not_be_asked_for_keeps_nothing_else_waiting() {
    let gateway = json!({ "parentRefs": [{ "name": "public" }], "hostnames": ["orders.example.com"] });
    let mut world = World::with(&[
        ("monitoring", json!({ "podMonitor": {} })),
        ("api/gateway", gateway),
    ]);
    install_kinds(&world);
    world.cluster.forbid("/apis/monitoring.coreos.com/v1");
    world.pass().await.unwrap();
    world.cluster.finish_jobs("Complete");
    world.pass().await.unwrap();
    world.cluster.start_pods();
    world.pass().await.unwrap();
    assert_eq!(world.reason("Ready"), "True Running");
    assert_eq!(world.cluster.paths("/httproutes/").len(), 1);
    assert_eq!(world.cluster.paths("/podmonitors/"), Vec::<String>::new());
    assert_eq!(world.reason("IntegrationsMissing"), "True KindUnknown");
    let message = world.condition("IntegrationsMissing")["message"].clone();
    let told = "monitoring.podMonitor asks for a PodMonitor, and whether this cluster knows it can't be found out now (the API server answers 403)";
    assert!(message.as_str().unwrap().contains(told), "{message}");

    world.cluster.forbid("/nothing");
    world.restart_operator();
    world.pass().await.unwrap();
    assert_eq!(world.cluster.paths("/podmonitors/").len(), 1);
    assert_eq!(world.condition("IntegrationsMissing"), Value::Null);

    // What is there is not taken for gone.
    world.cluster.forbid("/apis/monitoring.coreos.com/v1");
    change(&world, |spec| {
        drop(spec.as_object_mut().unwrap().remove("monitoring"));
    });
    world.restart_operator();
    world.pass().await.unwrap();
    assert_eq!(world.cluster.paths("/podmonitors/").len(), 1);
    world.cluster.forbid("/nothing");
    world.restart_operator();
    world.pass().await.unwrap();
    assert_eq!(world.cluster.paths("/podmonitors/"), Vec::<String>::new());
}
