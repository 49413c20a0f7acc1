//! Every pod that a chart makes meets the restricted Pod Security Standard and says what it needs.
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted>

use serde_json::{Value, json};

use crate::helm::ALL_MANIFESTS;

/// The pod specs in all rendered manifests.
fn pods() -> Vec<(&'static str, &'static Value)> {
    ALL_MANIFESTS
        .iter()
        .filter_map(|(label, manifest)| {
            let spec = match manifest["kind"].as_str()? {
                "Pod" => &manifest["spec"],
                "Deployment" | "Job" | "StatefulSet" => &manifest["spec"]["template"]["spec"],
                _ => return None,
            };
            Some((label.as_str(), spec))
        })
        .collect()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"]
        .into_iter()
        .flat_map(|list| pod[list].as_array().into_iter().flatten())
}

#[test]
fn every_pod_is_restricted() {
    let pods = pods();
    assert!(!pods.is_empty());
    for (label, pod) in pods {
        let security = &pod["securityContext"];
        assert_eq!(security["runAsNonRoot"], true, "{label}");
        assert_ne!(security["runAsUser"], 0, "{label}");
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{label}");
        for shared in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod[shared].is_null(), "{label}: {shared}");
        }
        for volume in pod["volumes"].as_array().into_iter().flatten() {
            assert!(volume["hostPath"].is_null(), "{label}: {volume}");
        }
        for container in containers(pod) {
            let label = format!("container {} of {label}", container["name"]);
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false, "{label}");
            assert_eq!(security["readOnlyRootFilesystem"], true, "{label}");
            assert_eq!(security["capabilities"], json!({ "drop": ["ALL"] }), "{label}");
            assert!(security["privileged"].is_null(), "{label}");
        }
    }
}

#[test]
fn every_container_says_what_it_needs_and_may_use() {
    for (label, pod) in pods() {
        for container in containers(pod) {
            let resources = &container["resources"];
            for (kind, resource) in [("requests", "cpu"), ("requests", "memory"), ("limits", "memory")] {
                let given = resources[kind][resource].as_str();
                assert!(
                    given.is_some(),
                    "container {} of {label}: no {kind} of {resource}",
                    container["name"]
                );
            }
        }
    }
}

#[test]
fn only_the_operator_gets_an_api_token() {
    for (label, pod) in pods() {
        let is_operator = pod["containers"][0]["name"] == "operator";
        assert_eq!(pod["automountServiceAccountToken"], is_operator, "{label}");
    }
}

#[test]
fn no_password_is_written_into_a_pod() {
    for (label, pod) in pods() {
        for container in containers(pod) {
            for variable in container["env"].as_array().into_iter().flatten() {
                let name = variable["name"].as_str().unwrap_or_default();
                let secret = ["PASSWORD", "TOKEN", "SECRET"]
                    .iter()
                    .any(|word| name.contains(word))
                    && !name.ends_with("_FILE");
                assert!(
                    !(secret && variable["value"].is_string()),
                    "{label}: {name} holds a value"
                );
            }
        }
    }
}
