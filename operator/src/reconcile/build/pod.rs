//! What all pods have in common: the restricted security context, mounted Secrets, and how a container is described.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, ContainerPort, EnvVar, HTTPGetAction, KeyToPath, LocalObjectReference,
        PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements,
        SeccompProfile, SecretProjection, SecurityContext, Volume, VolumeMount, VolumeProjection,
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};

use super::super::{
    names::{self, SECRETS},
    secrets::SecretKey,
    validate::Pipeline,
};

/// The user that the images run as.
const USER: i64 = 65532;
/// Readable for the group, which is the pod's own.
const FILE_MODE: i32 = 0o440;

/// Files of one store, or of one other purpose, mounted as `/etc/commerce/<store>/<file>`.
pub struct Mount<'a> {
    pub store: &'static str,
    /// File name and where its content comes from.
    pub files: Vec<(String, &'a SecretKey)>,
}

/// Where a mounted file is found.
pub fn path(store: &str, file: &str) -> String {
    format!("/etc/commerce/{store}/{file}")
}

/// An environment variable.
pub fn variable(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.into()),
        value_from: None,
    }
}

/// A probe of the admin port.
pub fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(3),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

/// A named port.
pub fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        ..ContainerPort::default()
    }
}

/// A container of the component's image, with no more rights than it needs.
pub fn container(
    pipeline: &Pipeline,
    name: &str,
    image: &str,
    args: Vec<String>,
    env: Vec<EnvVar>,
    mounts: &[Mount<'_>],
    resources: ResourceRequirements,
) -> Container {
    let mount = |mount: &Mount<'_>| VolumeMount {
        name: mount.store.to_owned(),
        mount_path: format!("/etc/commerce/{}", mount.store),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    Container {
        name: name.to_owned(),
        image: Some(pipeline.images.of(image)),
        image_pull_policy: Some(pipeline.images.pull_policy.to_owned()),
        args: Some(args),
        env: Some(env),
        resources: Some(resources),
        volume_mounts: Some(mounts.iter().map(mount).collect()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        // The last lines of a failed container's log end up in the pod's status, and from there in a condition.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// The template around one container. `fingerprint` changes when a mounted Secret does.
pub fn template(
    pipeline: &Pipeline,
    component: &str,
    fingerprint: &str,
    container: Container,
    mounts: &[Mount<'_>],
) -> PodTemplateSpec {
    let pull_secret = |name: &String| LocalObjectReference { name: name.clone() };
    let pull_secrets: Vec<_> = pipeline.images.pull_secrets.iter().map(pull_secret).collect();
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(names::labels(&pipeline.name, component)),
            annotations: Some(BTreeMap::from([(SECRETS.to_owned(), fingerprint.to_owned())])),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(pipeline.name.clone()),
            automount_service_account_token: Some(false),
            // Variables for each Service of the namespace would only be in the way.
            enable_service_links: Some(false),
            priority_class_name: pipeline.priority_class.clone(),
            image_pull_secrets: (!pull_secrets.is_empty()).then_some(pull_secrets),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            volumes: Some(mounts.iter().map(volume).collect()),
            containers: vec![container],
            ..PodSpec::default()
        }),
    }
}

fn volume(mount: &Mount<'_>) -> Volume {
    let source = |(file, at): &(String, &SecretKey)| VolumeProjection {
        secret: Some(SecretProjection {
            name: at.secret.clone(),
            items: Some(vec![KeyToPath {
                key: at.key.clone(),
                path: file.clone(),
                mode: None,
            }]),
            optional: None,
        }),
        ..VolumeProjection::default()
    };
    Volume {
        name: mount.store.to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(FILE_MODE),
            sources: Some(mount.files.iter().map(source).collect()),
        }),
        ..Volume::default()
    }
}
