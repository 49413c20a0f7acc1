//! Rendered manifests against the types of the real API: every field that is written is one that the API server knows.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        batch::v1::Job,
        core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::helm::ALL_MANIFESTS;

#[test]
fn every_field_is_known_to_the_api() {
    for (label, manifest) in &*ALL_MANIFESTS {
        let read_back = match manifest["kind"].as_str().unwrap_or_default() {
            "ClusterRole" => through::<ClusterRole>(manifest),
            "ClusterRoleBinding" => through::<ClusterRoleBinding>(manifest),
            "CommercePipeline" => through::<commerce_operator::crd::CommercePipeline>(manifest),
            "ConfigMap" => through::<ConfigMap>(manifest),
            "CustomResourceDefinition" => through::<CustomResourceDefinition>(manifest),
            "Deployment" => through::<Deployment>(manifest),
            "Job" => through::<Job>(manifest),
            "PersistentVolumeClaim" => through::<PersistentVolumeClaim>(manifest),
            "Pod" => through::<Pod>(manifest),
            "PodDisruptionBudget" => through::<PodDisruptionBudget>(manifest),
            "Role" => through::<Role>(manifest),
            "RoleBinding" => through::<RoleBinding>(manifest),
            "Secret" => through::<Secret>(manifest),
            "Service" => through::<Service>(manifest),
            "ServiceAccount" => through::<ServiceAccount>(manifest),
            "StatefulSet" => through::<StatefulSet>(manifest),
            kind => panic!("{label}: this test knows no type for {kind}"),
        };
        let read_back = read_back.unwrap_or_else(|error| panic!("{label}: {error}"));
        let mut lost = Vec::new();
        find_lost("", manifest, &read_back, &mut lost);
        assert!(lost.is_empty(), "{label}: the API does not know {lost:?}");
    }
}

fn through<K: Serialize + DeserializeOwned>(manifest: &Value) -> serde_json::Result<Value> {
    serde_json::to_value(serde_json::from_value::<K>(manifest.clone())?)
}

/// What reading into the API's type has lost or changed.
fn find_lost(path: &str, written: &Value, read_back: &Value, lost: &mut Vec<String>) {
    match (written, read_back) {
        (Value::Object(fields), Value::Object(_)) => {
            for (key, value) in fields.iter().filter(|(_, value)| !is_empty(value)) {
                find_lost(&format!("{path}.{key}"), value, &read_back[key], lost);
            }
        }
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
            for (index, (item, other)) in items.iter().zip(others).enumerate() {
                find_lost(&format!("{path}[{index}]"), item, other, lost);
            }
        }
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => {}
        (a, b) if a == b => {}
        _ => lost.push(path.to_owned()),
    }
}

/// An absent field and an empty one are the same to these types.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[test]
fn every_object_is_named_and_labelled_by_its_release() {
    for (label, manifest) in &*ALL_MANIFESTS {
        let metadata = &manifest["metadata"];
        let name = metadata["name"].as_str().unwrap_or_default();
        assert!(
            (1..=63).contains(&name.len()),
            "{label}: the name has {} characters",
            name.len()
        );
        for key in ["name", "instance", "part-of", "managed-by"] {
            let key = format!("app.kubernetes.io/{key}");
            assert!(
                metadata["labels"][&key].is_string(),
                "{label}: the label {key} is missing"
            );
        }
        assert_eq!(
            metadata["labels"]["app.kubernetes.io/part-of"], "commerce-pipeline",
            "{label}"
        );
        assert_eq!(
            metadata["labels"]["app.kubernetes.io/managed-by"], "Helm",
            "{label}"
        );
        let cluster_wide = ["ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"];
        if !cluster_wide.contains(&manifest["kind"].as_str().unwrap_or_default()) {
            let namespace = metadata["namespace"].as_str();
            assert!(namespace.is_some(), "{label}: the namespace is missing");
        }
    }
}
