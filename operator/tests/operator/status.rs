//! From findings to conditions: what they say, when they change, and which events that makes.

use commerce_operator::{
    crd::{CommercePipeline, CommercePipelineStatus, IndexStatus},
    reconcile::{
        error::{Error, Stop},
        events,
        health::{self, Health},
        names::Component,
        status::{self, Findings},
    },
};
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod, networking::v1::Ingress},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::runtime::events::{Event, EventType};
use serde_json::{Value, json};

use crate::fixtures::{minimal, parsed};

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn condition<'a>(status: &'a CommercePipelineStatus, kind: &str) -> &'a Condition {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .unwrap()
}

fn deployment(component: Component, status: &Value) -> Deployment {
    let name = format!("shop-{}", component.as_str());
    let spec = json!({ "replicas": 2, "selector": {}, "template": {} });
    serde_json::from_value(
        json!({ "metadata": { "name": name, "generation": 3 }, "spec": spec, "status": status }),
    )
    .unwrap()
}

fn running() -> Value {
    json!({ "observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2 })
}

fn health(component: Component, status: &Value, pods: &[Pod]) -> Health {
    health::component("shop", component, &[deployment(component, status)], pods)
}

fn healthy() -> Findings {
    let mut findings = Findings {
        url: Some("http://shop".into()),
        ..Findings::default()
    };
    for step in [status::STORES, status::SCHEMA, status::TOPICS, status::INDEX] {
        findings.pass(step, "Fine", "fine");
    }
    findings.components = [Component::Api, Component::Relay, Component::Indexer]
        .map(|component| health(component, &running(), &[]))
        .into();
    findings
}

fn after(status: CommercePipelineStatus) -> CommercePipeline {
    CommercePipeline {
        status: Some(status),
        ..parsed(&minimal(), &[])
    }
}

fn away() -> Findings {
    let mut findings = Findings::default();
    findings.stop(
        Some(status::STORES),
        &Stop::Failed(Error::StoresUnreachable("Redis: no answer within 5 s".into())),
    );
    findings
}

#[test]
fn all_well_is_ready() {
    let next = status::next(&parsed(&minimal(), &[]), &healthy(), &at(100));
    let ready = condition(&next, "Ready");
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("True", "Running")
    );
    assert_eq!(ready.message, "takes orders at http://shop/orders");
    assert_eq!(next.observed_generation, Some(1));
    assert_eq!(
        next.api.as_ref().map(|api| (api.replicas, api.ready)),
        Some((2, 2))
    );
    assert_eq!(condition(&next, "Suspended").status, "False");
}

#[test]
fn the_same_findings_later_change_nothing() {
    let first = status::next(&parsed(&minimal(), &[]), &healthy(), &at(100));
    let second = status::next(&after(first.clone()), &healthy(), &at(200));
    assert_eq!(first, second);
    assert!(events::changes(Some(&first), &second).is_empty());
}

#[test]
fn a_step_that_was_not_looked_at_keeps_its_condition() {
    let first = status::next(&parsed(&minimal(), &[]), &healthy(), &at(100));
    let second = status::next(&after(first.clone()), &away(), &at(200));
    assert_eq!(
        condition(&second, "TopicsReady"),
        condition(&first, "TopicsReady")
    );
    let stores = condition(&second, "StoresReachable");
    assert_eq!(
        (stores.status.as_str(), stores.message.as_str()),
        ("False", "Redis: no answer within 5 s")
    );
    assert_eq!(stores.last_transition_time, at(200));
    let ready = condition(&second, "Ready");
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("False", "StoresUnreachable")
    );
}

#[test]
fn steps_that_were_never_reached_say_so() {
    let next = status::next(&parsed(&minimal(), &[]), &away(), &at(100));
    let topics = condition(&next, "TopicsReady");
    assert_eq!(
        (topics.status.as_str(), topics.reason.as_str()),
        ("Unknown", "NotReached")
    );
}

#[test]
fn the_transition_time_is_that_of_the_status_and_not_of_the_reason() {
    let mut findings = healthy();
    findings.components[0] = health(Component::Api, &json!({ "observedGeneration": 3 }), &[]);
    let first = status::next(&parsed(&minimal(), &[]), &findings, &at(100));
    assert_eq!(condition(&first, "Ready").reason, "Starting");
    let second = status::next(&after(first), &away(), &at(200));
    assert_eq!(condition(&second, "Ready").reason, "StoresUnreachable");
    assert_eq!(condition(&second, "Ready").last_transition_time, at(100));
}

#[test]
fn suspension_keeps_what_was_known() {
    let ready = status::next(&parsed(&minimal(), &[]), &healthy(), &at(100));
    let suspended = status::next(
        &after(ready.clone()),
        &Findings {
            suspended: true,
            ..Findings::default()
        },
        &at(200),
    );
    assert_eq!(condition(&suspended, "Suspended").status, "True");
    assert_eq!(condition(&suspended, "Ready"), condition(&ready, "Ready"));
    let resumed = status::next(&after(suspended.clone()), &healthy(), &at(300));
    for condition in &resumed.conditions {
        match condition.type_.as_str() {
            "Suspended" => assert_eq!(
                (condition.status.as_str(), &condition.last_transition_time),
                ("False", &at(300))
            ),
            _ => assert!(ready.conditions.contains(condition), "{condition:?}"),
        }
    }
    let told = |before, after| -> Vec<_> {
        let events = events::changes(Some(before), after);
        let what = |event: Event| (event.reason, event.type_);
        events.into_iter().map(what).collect()
    };
    assert_eq!(
        told(&ready, &suspended),
        [("Suspended".to_owned(), EventType::Normal)]
    );
    assert_eq!(
        told(&suspended, &resumed),
        [("NotSuspended".to_owned(), EventType::Normal)]
    );
}

#[test]
fn events_tell_changes_once_and_failures_as_warnings() {
    let first = status::next(&parsed(&minimal(), &[]), &healthy(), &at(100));
    let second = status::next(&after(first.clone()), &away(), &at(200));
    let told = events::changes(Some(&first), &second);
    let reasons: Vec<_> = told
        .iter()
        .map(|event| (event.type_, event.reason.as_str(), event.action.as_str()))
        .collect();
    assert_eq!(
        reasons,
        [(EventType::Warning, "StoresUnreachable", "StoresReachable")]
    );
    let recovered = events::changes(Some(&second), &first);
    assert!(recovered.iter().all(|event| event.type_ == EventType::Normal));
    assert!(recovered.iter().any(|event| event.action == "Ready"));
}

/// Findings of a pass in which one index serves and another one is filled.
fn reindexing(target: &str) -> Findings {
    let mut findings = healthy();
    findings.steps.retain(|(step, _)| *step != status::INDEX);
    let waiting = Stop::Waiting {
        reason: status::REINDEXING,
        message: format!("fills {target}"),
    };
    findings.stop(Some(status::INDEX), &waiting);
    findings.index = Some(index("a", Some(target)));
    findings
}

fn index(active: &str, target: Option<&str>) -> IndexStatus {
    IndexStatus {
        alias: "orders".to_owned(),
        active: active.to_owned(),
        target: target.map(str::to_owned),
        ..IndexStatus::default()
    }
}

#[test]
fn events_tell_when_an_index_begins_to_be_filled_and_when_it_takes_over() {
    let serving = |active: &str| {
        let mut findings = healthy();
        findings.index = Some(index(active, None));
        findings
    };
    let mut last = status::next(&parsed(&minimal(), &[]), &serving("a"), &at(100));
    let mut told = Vec::new();
    for findings in [reindexing("b"), reindexing("b"), reindexing("c"), serving("c")] {
        let next = status::next(&after(last.clone()), &findings, &at(200));
        let events = events::changes(Some(&last), &next);
        told.push(events.into_iter().map(|event| event.reason).collect::<Vec<_>>());
        last = next;
    }
    assert_eq!(
        told,
        [
            vec!["ReindexStarted"],
            vec![],
            vec!["ReindexStarted"],
            vec!["Running", "Reindexed"],
        ]
    );
    let ready = status::next(&after(last), &reindexing("d"), &at(300));
    let conditions = ["Ready", "IndexReady"].map(|kind| {
        let condition = condition(&ready, kind);
        (condition.status.as_str(), condition.reason.as_str())
    });
    assert_eq!(
        conditions,
        [("False", "Reindexing"), ("True", "Reindexing")],
        "the one before serves"
    );
}

#[test]
fn a_new_version_that_rolls_out_is_told_while_the_old_one_serves() {
    let status = json!({
        "observedGeneration": 3, "replicas": 3, "updatedReplicas": 1, "readyReplicas": 2, "availableReplicas": 2,
    });
    let found = health(Component::Api, &status, &[]);
    assert_eq!(
        found.finding,
        status::Finding::yes("RollingOut", "2 replicas are ready, 1 of 2 of this version")
    );
    assert!(found.rolling);
}

#[test]
fn a_deployment_that_was_just_changed_is_not_taken_for_ready() {
    let status = json!({
        "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2,
    });
    assert!(health(Component::Api, &status, &[]).rolling);
}

fn pod(status: &Value) -> Pod {
    let labels = json!({ "app.kubernetes.io/component": "api" });
    serde_json::from_value(
        json!({ "metadata": { "name": "shop-api-x", "labels": labels }, "status": status }),
    )
    .unwrap()
}

#[test]
fn a_crashing_pod_is_named_with_the_last_line_of_its_log() {
    let pod = pod(&json!({ "containerStatuses": [{
        "name": "api", "image": "", "imageID": "", "ready": false, "restartCount": 3,
        "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 40s" } },
        "lastState": { "terminated": { "exitCode": 1, "message": "starting\nDATABASE_URL is not usable\n" } },
    }] }));
    let found = health(
        Component::Api,
        &json!({ "observedGeneration": 3, "replicas": 2, "updatedReplicas": 2 }),
        &[pod],
    );
    assert_eq!(
        found.finding,
        status::Finding::no(
            "ReplicasUnavailable",
            "0 of 2 replicas are ready; pod shop-api-x: CrashLoopBackOff: DATABASE_URL is not usable"
        )
    );
}

#[test]
fn a_pod_without_room_is_named() {
    let pod = pod(&json!({ "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: Insufficient cpu",
    }] }));
    let found = health(
        Component::Api,
        &json!({ "observedGeneration": 3, "replicas": 2, "updatedReplicas": 2 }),
        &[pod],
    );
    assert!(
        found
            .finding
            .message
            .ends_with("pod shop-api-x: Unschedulable: 0/1 nodes: Insufficient cpu"),
        "{found:?}"
    );
}

#[test]
fn the_address_is_the_ingress_or_else_the_service() {
    let ingress = |spec: Value, status: Value| -> Ingress {
        serde_json::from_value(json!({ "metadata": {}, "spec": spec, "status": status })).unwrap()
    };
    assert_eq!(
        health::url("shop", "store", &[], None),
        "http://shop-api.store.svc"
    );
    let with_host = json!({ "rules": [{ "host": "orders.example.com" }], "tls": [{ "secretName": "tls" }] });
    assert_eq!(
        health::url("shop", "store", &[ingress(with_host, json!({}))], None),
        "https://orders.example.com"
    );
    let address = json!({ "loadBalancer": { "ingress": [{ "ip": "10.0.0.1" }] } });
    assert_eq!(
        health::url(
            "shop",
            "store",
            &[ingress(json!({ "rules": [{}] }), address)],
            None
        ),
        "http://10.0.0.1"
    );
}
