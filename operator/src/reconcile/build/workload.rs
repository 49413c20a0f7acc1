//! Deployments and their disruption budgets.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{Lifecycle, LifecycleHandler, SleepAction, TopologySpreadConstraint},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{
    super::{
        names::{self, Component},
        rollout,
        validate::Pipeline,
    },
    child_name, environment, metadata, pod,
};

/// Seconds between the removal of a pod from its Service and the signal to stop, so that no proxy sends it a new request.
const LEAVE_SECONDS: i64 = 5;
/// Seconds for what is under way, after that.
const DRAIN_SECONDS: i64 = 30;
/// Seconds until a rollout that makes no progress is called stuck.
const PROGRESS_SECONDS: i32 = 300;

/// The Deployment of a component.
///
/// No replica leaves before its successor is ready, so a version that does not become ready leaves the old one serving.
pub fn deployment(pipeline: &Pipeline, component: Component) -> Deployment {
    let name = component.as_str();
    let (environment, workload, fingerprint) = match component {
        Component::Api => (
            environment::api(pipeline),
            &pipeline.api,
            &pipeline.fingerprints.api,
        ),
        Component::Relay => (
            environment::relay(pipeline),
            &pipeline.relay.workload,
            &pipeline.fingerprints.relay,
        ),
        Component::Indexer => (
            environment::indexer(pipeline),
            &pipeline.indexer.workload,
            &pipeline.fingerprints.indexer,
        ),
    };
    let args = vec!["serve".to_owned()];
    let mut container = pod::container(
        pipeline,
        name,
        name,
        args,
        environment.variables,
        &environment.mounts,
        workload.resources.clone(),
    );
    let mut ports = vec![pod::port("admin", 9090)];
    let mut grace = DRAIN_SECONDS;
    if component == Component::Api {
        ports.insert(0, pod::port("http", 8080));
        grace += LEAVE_SECONDS;
        let sleep = SleepAction {
            seconds: LEAVE_SECONDS,
        };
        let leave = LifecycleHandler {
            sleep: Some(sleep),
            ..LifecycleHandler::default()
        };
        container.lifecycle = Some(Lifecycle {
            pre_stop: Some(leave),
            ..Lifecycle::default()
        });
    }
    container.ports = Some(ports);
    container.startup_probe = Some(pod::probe("/livez", 1, 60));
    container.liveness_probe = Some(pod::probe("/livez", 10, 3));
    container.readiness_probe = Some(pod::probe("/readyz", 3, 2));

    let selector = LabelSelector {
        match_labels: Some(names::pod_labels(&pipeline.name, name)),
        match_expressions: None,
    };
    let mut template = pod::template(pipeline, name, fingerprint, container, &environment.mounts);
    if let Some(spec) = &mut template.spec {
        spec.termination_grace_period_seconds = Some(grace);
        spec.topology_spread_constraints = Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(selector.clone()),
            match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
            ..TopologySpreadConstraint::default()
        }]);
    }
    let mut metadata = metadata(pipeline, &child_name(&pipeline.name, component), name);
    metadata.annotations = Some([(names::REVISION.to_owned(), rollout::fingerprint(&template))].into());
    Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            replicas: Some(workload.replicas),
            selector,
            template,
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            revision_history_limit: Some(3),
            progress_deadline_seconds: Some(PROGRESS_SECONDS),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// Lets a node drain take one replica at a time; a single replica never blocks a drain.
pub fn budget(pipeline: &Pipeline, component: Component) -> PodDisruptionBudget {
    let name = component.as_str();
    PodDisruptionBudget {
        metadata: metadata(pipeline, &child_name(&pipeline.name, component), name),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(names::pod_labels(&pipeline.name, name)),
                match_expressions: None,
            }),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
