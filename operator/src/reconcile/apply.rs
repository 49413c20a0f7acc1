//! Fourth station: makes the cluster's objects what they should be, by server-side apply, and only where they are not.
//!
//! Each applied object carries a fingerprint of itself. An object is left alone when everything that would be applied is in
//! it, the fingerprint included: so a removed field is noticed by the fingerprint, an edited one by the comparison, and a
//! pass in which nothing changed writes nothing, after a restart of the operator too.

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    error::Error,
    names::{self, APPLIED, MANAGER},
    quantity,
};

/// Makes `desired` true, and gives the object as it then is.
pub async fn apply<K>(client: &Client, desired: &K, live: &[K]) -> Result<K, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api = Api::namespaced(client.clone(), &desired.namespace().unwrap_or_default());
    apply_in(&api, &K::kind(&()), desired, live).await
}

/// The same, for any kind.
pub async fn apply_in<K>(api: &Api<K>, kind: &str, desired: &K, live: &[K]) -> Result<K, Error>
where
    K: Resource + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let name = desired.name_any();
    let failed = |source| Error::ApplyFailed {
        kind: kind.to_owned(),
        name: name.clone(),
        source,
    };
    let body = marked(desired).map_err(|error| failed(kube::Error::SerdeError(error)))?;
    let live = live.iter().find(|live| live.name_any() == name);
    if let Some(live) = live {
        let actual = serde_json::to_value(live).map_err(|error| failed(kube::Error::SerdeError(error)))?;
        if contains(&actual, &body, false) {
            return Ok(live.clone());
        }
    }
    let applied = api
        .patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body))
        .await
        .map_err(failed)?;
    tracing::info!(kind, name, existed = live.is_some(), "applied");
    Ok(applied)
}

/// Deletes the children in `live` whose names `keep` refuses.
pub async fn prune<K>(client: &Client, live: &[K], keep: impl Fn(&str) -> bool) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let Some(namespace) = live.first().and_then(ResourceExt::namespace) else {
        return Ok(());
    };
    let api = Api::namespaced(client.clone(), &namespace);
    prune_in(&api, &K::kind(&()), live, keep).await
}

/// The same, for any kind.
pub async fn prune_in<K>(
    api: &Api<K>,
    kind: &str,
    live: &[K],
    keep: impl Fn(&str) -> bool,
) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    for child in live
        .iter()
        .filter(|child| !keep(&child.name_any()) && child.meta().deletion_timestamp.is_none())
    {
        let name = child.name_any();
        match api.delete(&name, &DeleteParams::background()).await {
            Ok(_) => tracing::info!(kind, name, "deleted"),
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(source) => {
                return Err(Error::ApplyFailed {
                    kind: kind.to_owned(),
                    name,
                    source,
                });
            }
        }
    }
    Ok(())
}

/// The object as it is applied: with its fingerprint.
fn marked<K: Serialize>(desired: &K) -> Result<Value, serde_json::Error> {
    let mut body = serde_json::to_value(desired)?;
    let fingerprint = names::hex(&Sha256::digest(body.to_string()), 16);
    if !body["metadata"]["annotations"].is_object() {
        body["metadata"]["annotations"] = Value::Object(serde_json::Map::new());
    }
    body["metadata"]["annotations"][APPLIED] = Value::String(fingerprint);
    Ok(body)
}

/// Fields that hold quantities, or maps of them. The API server keeps these as numbers and gives them back in one notation of
/// its own: `1` for `1000m`.
const QUANTITIES: [&str; 4] = ["limits", "requests", "sizeLimit", "divisor"];

/// Whether all of `desired` is in `actual`. Lists must agree in length and order, and what is empty may be absent.
fn contains(actual: &Value, desired: &Value, are_quantities: bool) -> bool {
    match (actual, desired) {
        (Value::Object(actual), Value::Object(desired)) => desired.iter().all(|(key, desired)| {
            let are_quantities = are_quantities || QUANTITIES.contains(&key.as_str());
            contains(actual.get(key).unwrap_or(&Value::Null), desired, are_quantities)
        }),
        (Value::Array(actual), Value::Array(desired)) => {
            actual.len() == desired.len()
                && actual
                    .iter()
                    .zip(desired)
                    .all(|(actual, desired)| contains(actual, desired, are_quantities))
        }
        (Value::Null, Value::Object(desired)) => desired.is_empty(),
        (Value::Null, Value::Array(desired)) => desired.is_empty(),
        // As the API server has it of a variable whose value is empty.
        (Value::Null, Value::String(desired)) => desired.is_empty(),
        (Value::String(actual), Value::String(desired)) if are_quantities => quantity::same(actual, desired),
        (actual, desired) => actual == desired,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::contains;

    #[test]
    fn defaults_of_the_api_server_are_no_difference() {
        let desired = json!({"spec": {"ports": [{"port": 80}], "volumes": [], "env": [{"name": "PREFIX", "value": ""}]}});
        let actual = json!({"spec": {"ports": [{"port": 80, "protocol": "TCP"}], "type": "ClusterIP", "env": [{"name": "PREFIX"}]}, "status": {}});
        assert!(contains(&actual, &desired, false));
    }

    #[test]
    fn an_edited_removed_or_added_entry_is_a_difference() {
        let desired = json!({"spec": {"replicas": 2, "ports": [{"port": 80}]}});
        for actual in [
            json!({"spec": {"replicas": 3, "ports": [{"port": 80}]}}),
            json!({"spec": {"replicas": 2}}),
            json!({"spec": {"replicas": 2, "ports": [{"port": 80}, {"port": 81}]}}),
        ] {
            assert!(!contains(&actual, &desired, false), "{actual}");
        }
    }
    #[test]
    fn another_notation_of_a_quantity_is_no_difference_and_another_text_is() {
        let desired = json!({"containers": [{"resources": {"limits": {"cpu": "1000m", "memory": "1.5Gi"}}, "args": ["1000m"]}]});
        let with = |cpu: &str, arg: &str| json!({"containers": [{"resources": {"limits": {"cpu": cpu, "memory": "1536Mi"}}, "args": [arg]}]});
        assert!(contains(&with("1", "1000m"), &desired, false));
        assert!(!contains(&with("2", "1000m"), &desired, false));
        assert!(!contains(&with("1", "1"), &desired, false));
    }
}
