//! What a spec adds to the pods of a service, and what it must leave alone.

use std::collections::BTreeMap;

use k8s_openapi::{
    DeepMerge as _,
    api::core::v1::{Container, HTTPGetAction, PodSpec, PodTemplateSpec, Probe},
};

use super::super::names::Component;

/// The template with what is added to it.
pub fn merge(mut template: PodTemplateSpec, overrides: Option<&PodTemplateSpec>) -> PodTemplateSpec {
    if let Some(overrides) = overrides {
        template.merge_from(overrides.clone());
    }
    template
}

/// What was changed that the operator relies on.
#[must_use]
pub fn conflicts(component: Component, before: &PodTemplateSpec, after: &PodTemplateSpec) -> Vec<String> {
    let mut found = Vec::new();
    let mut differs = |differs: bool, path: &str| {
        if differs {
            found.push(path.to_owned());
        }
    };
    let labels = |template: &PodTemplateSpec| template.metadata.clone().unwrap_or_default();
    let (old, new) = (labels(before), labels(after));
    differs(
        !holds(old.labels.as_ref(), new.labels.as_ref()),
        "metadata.labels",
    );
    differs(
        !holds(old.annotations.as_ref(), new.annotations.as_ref()),
        "metadata.annotations",
    );
    let spec = |template: &PodTemplateSpec| template.spec.clone().unwrap_or_default();
    let (old, new) = (spec(before), spec(after));
    differs(
        old.service_account_name != new.service_account_name || new.service_account.is_some(),
        "spec.serviceAccountName",
    );
    differs(
        old.automount_service_account_token != new.automount_service_account_token,
        "spec.automountServiceAccountToken",
    );
    differs(
        new.restart_policy
            .as_deref()
            .is_some_and(|policy| policy != "Always"),
        "spec.restartPolicy",
    );
    differs(
        new.termination_grace_period_seconds < old.termination_grace_period_seconds,
        "spec.terminationGracePeriodSeconds (lower)",
    );
    differs(
        !all_in(old.volumes.as_ref(), new.volumes.as_ref()),
        "spec.volumes",
    );
    if let (Some(old), Some(new)) = (own(component, &old), own(component, &new)) {
        let name = component.as_str();
        for field in of_container(old, new) {
            differs(true, &format!("spec.containers[{name}].{field}"));
        }
    }
    found
}

/// The component's own container.
pub fn own(component: Component, spec: &PodSpec) -> Option<&Container> {
    spec.containers
        .iter()
        .find(|container| container.name == component.as_str())
}

fn of_container(old: &Container, new: &Container) -> Vec<&'static str> {
    let same = [
        (old.image == new.image, "image"),
        (old.image_pull_policy == new.image_pull_policy, "imagePullPolicy"),
        (old.command == new.command, "command"),
        (old.args == new.args, "args"),
        (old.working_dir == new.working_dir, "workingDir"),
        (all_in(old.env.as_ref(), new.env.as_ref()), "env"),
        (all_in(old.ports.as_ref(), new.ports.as_ref()), "ports"),
        (
            all_in(old.volume_mounts.as_ref(), new.volume_mounts.as_ref()),
            "volumeMounts",
        ),
        (
            asks(old.startup_probe.as_ref()) == asks(new.startup_probe.as_ref()),
            "startupProbe",
        ),
        (
            asks(old.liveness_probe.as_ref()) == asks(new.liveness_probe.as_ref()),
            "livenessProbe",
        ),
        (
            asks(old.readiness_probe.as_ref()) == asks(new.readiness_probe.as_ref()),
            "readinessProbe",
        ),
        (
            old.lifecycle
                .as_ref()
                .and_then(|lifecycle| lifecycle.pre_stop.as_ref())
                == new
                    .lifecycle
                    .as_ref()
                    .and_then(|lifecycle| lifecycle.pre_stop.as_ref()),
            "lifecycle.preStop",
        ),
    ];
    same.into_iter()
        .filter(|(same, _)| !same)
        .map(|(_, field)| field)
        .collect()
}

/// What a probe asks; how often and how patiently is free.
fn asks(probe: Option<&Probe>) -> Option<(Option<&HTTPGetAction>, bool)> {
    let probe = probe?;
    let otherwise = probe.exec.is_some() || probe.grpc.is_some() || probe.tcp_socket.is_some();
    Some((probe.http_get.as_ref(), otherwise))
}

fn holds(old: Option<&BTreeMap<String, String>>, new: Option<&BTreeMap<String, String>>) -> bool {
    let mut old = old.into_iter().flatten();
    old.all(|(key, value)| new.and_then(|new| new.get(key)) == Some(value))
}

fn all_in<T: PartialEq>(old: Option<&Vec<T>>, new: Option<&Vec<T>>) -> bool {
    let mut old = old.into_iter().flatten();
    old.all(|item| new.is_some_and(|new| new.contains(item)))
}
