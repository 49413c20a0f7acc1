//! A resource that does not fit the types, which happens when it was stored under another version of the CRD. It gets a
//! condition and stops nobody else; what it runs goes on.

use kube::{
    Api, Client, CustomResourceExt as _, ResourceExt as _,
    api::{DynamicObject, Patch, PatchParams},
    runtime::controller::Action,
};
use serde_json::json;

use super::{
    error::Error,
    names::{FINALIZER, MANAGER},
    status::READY,
};
use crate::crd::CommercePipeline;

/// Tells in the status what can't be read. A deletion is let through, leaving everything in the stores, since what it asked
/// for can't be read either.
pub async fn report(client: &Client, object: &DynamicObject, problem: String) -> Result<Action, Error> {
    let resource = CommercePipeline::api_resource();
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &object.namespace().unwrap_or_default(), &resource);
    let name = object.name_any();
    if object.metadata.deletion_timestamp.is_some() {
        let finalizers: Vec<_> = object
            .finalizers()
            .iter()
            .filter(|name| *name != FINALIZER)
            .collect();
        let version = &object.metadata.resource_version;
        let patch = json!({ "metadata": { "resourceVersion": version, "finalizers": finalizers } });
        let released = api
            .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        released.map_err(Error::FinalizerFailed)?;
        return Ok(Action::await_change());
    }
    let error = Error::Unreadable(problem);
    let conditions = object
        .data
        .pointer("/status/conditions")
        .and_then(serde_json::Value::as_array);
    let told = conditions.into_iter().flatten().any(|condition| {
        condition["type"] == READY
            && condition["reason"] == error.reason()
            && condition["message"] == error.to_string()
    });
    if !told {
        let body = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": { "name": name },
            "status": {
                "observedGeneration": object.metadata.generation,
                "conditions": [{
                    "type": READY,
                    "status": "False",
                    "reason": error.reason(),
                    "message": error.to_string(),
                    "observedGeneration": object.metadata.generation,
                    "lastTransitionTime": super::now(),
                }],
            },
        });
        let params = PatchParams::apply(MANAGER).force();
        api.patch_status(&name, &params, &Patch::Apply(&body))
            .await
            .map_err(Error::StatusFailed)?;
    }
    Err(error)
}
