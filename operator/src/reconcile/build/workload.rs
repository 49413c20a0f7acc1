//! Deployments, their autoscalers and their disruption budgets.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        autoscaling::v2::{
            CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec,
            MetricTarget, ResourceMetricSource,
        },
        core::v1::{Lifecycle, LifecycleHandler, PodTemplateSpec, SleepAction, TopologySpreadConstraint},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{
    super::{
        names::{self, Component},
        rollout,
        validate::{Pipeline, Scaling, Workload},
    },
    Identity, child_name, environment, metadata, overrides, pod,
};

/// Seconds between the removal of a pod from its Service and the signal to stop, so that no proxy sends it a new request.
const LEAVE_SECONDS: i64 = 5;
/// Seconds for what is under way, after that.
const DRAIN_SECONDS: i64 = 30;
/// Seconds until a rollout that makes no progress is called stuck.
const PROGRESS_SECONDS: i32 = 300;

/// The pods of a component, without what the spec adds to them.
pub fn template(pipeline: &Pipeline, component: Component) -> PodTemplateSpec {
    let name = component.as_str();
    let (environment, fingerprint) = match component {
        Component::Api => (environment::api(pipeline), &pipeline.fingerprints.api),
        Component::Relay => (environment::relay(pipeline), &pipeline.fingerprints.relay),
        Component::Indexer => (environment::indexer(pipeline), &pipeline.fingerprints.indexer),
    };
    let args = vec!["serve".to_owned()];
    let mut container = pod::container(
        pipeline,
        name,
        name,
        args,
        environment.variables,
        &environment.mounts,
        pipeline.workload(component).resources.clone(),
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

    let mut template = pod::template(pipeline, name, fingerprint, container, &environment.mounts);
    if let Some(spec) = &mut template.spec {
        spec.termination_grace_period_seconds = Some(grace);
        spec.topology_spread_constraints = Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(selector(pipeline, component)),
            match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
            ..TopologySpreadConstraint::default()
        }]);
    }
    template
}

fn selector<'a>(whose: impl Into<Identity<'a>>, component: Component) -> LabelSelector {
    LabelSelector {
        match_labels: Some(names::pod_labels(whose.into().name, component.as_str())),
        match_expressions: None,
    }
}

/// The Deployment of a component.
///
/// No replica leaves before its successor is ready, so a version that does not become ready leaves the old one serving.
pub fn deployment(pipeline: &Pipeline, component: Component) -> Deployment {
    let workload = pipeline.workload(component);
    let template = overrides::merge(template(pipeline, component), workload.template.as_ref());
    let mut deployment = without_pods(pipeline, component, workload);
    rollout::set(&mut deployment, rollout::fingerprint(&template), template);
    deployment
}

/// The same, whatever the pods are like.
pub fn without_pods<'a>(
    whose: impl Into<Identity<'a>>,
    component: Component,
    workload: &Workload,
) -> Deployment {
    let (whose, name) = (whose.into(), component.as_str());
    let mut metadata = metadata(whose, &child_name(whose.name, component), name);
    let enough = |scaling: Scaling| BTreeMap::from([(names::ENOUGH.to_owned(), scaling.min.to_string())]);
    metadata.annotations = workload.scaling.map(enough);
    Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            replicas: workload.replicas,
            selector: selector(whose, component),
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

/// What scales the API by the CPU that it uses, where the spec asks for it.
pub fn autoscaler<'a>(whose: impl Into<Identity<'a>>, api: &Workload) -> Option<HorizontalPodAutoscaler> {
    let (whose, scaling) = (whose.into(), api.scaling?);
    let name = child_name(whose.name, Component::Api);
    let target = MetricTarget {
        type_: "Utilization".to_owned(),
        average_utilization: scaling.cpu,
        ..MetricTarget::default()
    };
    let cpu = ResourceMetricSource {
        name: "cpu".to_owned(),
        target,
    };
    Some(HorizontalPodAutoscaler {
        metadata: metadata(whose, &name, Component::Api.as_str()),
        spec: Some(HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: "Deployment".to_owned(),
                name,
            },
            min_replicas: Some(scaling.min),
            max_replicas: scaling.max,
            metrics: Some(vec![MetricSpec {
                type_: "Resource".to_owned(),
                resource: Some(cpu),
                ..MetricSpec::default()
            }]),
            behavior: None,
        }),
        status: None,
    })
}

/// Lets a node drain take one replica at a time; a single replica never blocks a drain.
pub fn budget<'a>(whose: impl Into<Identity<'a>>, component: Component) -> PodDisruptionBudget {
    let (whose, name) = (whose.into(), component.as_str());
    PodDisruptionBudget {
        metadata: metadata(whose, &child_name(whose.name, component), name),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(names::pod_labels(whose.name, name)),
                match_expressions: None,
            }),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
