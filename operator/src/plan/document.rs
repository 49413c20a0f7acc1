//! The pipelines in a file, and what the API server would make of each.

use http::{Method, Request, header::CONTENT_TYPE};
use kube::Client;
use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::Error;

/// Where `kubectl apply` keeps what it applied.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const API_VERSION: &str = "commerce.lab/v1alpha1";
const KIND: &str = "CommercePipeline";

/// A pipeline as somebody wrote it down.
#[derive(Clone, Debug)]
pub struct Document {
    pub name: String,
    pub namespace: Option<String>,
    body: Value,
}

impl Document {
    /// The pipelines in a YAML or JSON text; `namespace` is for those that name none, and must be that of those that do.
    pub fn all(text: &str, namespace: Option<&str>) -> Result<Vec<Self>, Error> {
        let mut found = Vec::new();
        for document in serde_norway::Deserializer::from_str(text) {
            let body = Value::deserialize(document)
                .map_err(|error| Error::Document(format!("it is not YAML: {error}")))?;
            if body["kind"] == KIND {
                found.push(Self::new(body, namespace)?);
            }
        }
        if found.is_empty() {
            return Err(Error::Document(format!("there is no {KIND} in it")));
        }
        Ok(found)
    }

    fn new(mut body: Value, namespace: Option<&str>) -> Result<Self, Error> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let name = text(&body["metadata"]["name"]).filter(|name| is_name(name));
        let name = name.ok_or_else(|| Error::Document(format!("metadata.name of a {KIND} is not a name")))?;
        if body["apiVersion"] != API_VERSION {
            return Err(Error::Document(format!(
                "the apiVersion of {name} is not {API_VERSION}"
            )));
        }
        let own = text(&body["metadata"]["namespace"]);
        if let (Some(own), Some(asked)) = (&own, namespace)
            && own != asked
        {
            return Err(Error::Document(format!(
                "{name} is in the namespace {own}, not in {asked}: leave one of them out"
            )));
        }
        if let Some(fields) = body.as_object_mut() {
            fields.shift_remove("status");
        }
        Ok(Self {
            name,
            namespace: own.or_else(|| namespace.map(str::to_owned)),
            body,
        })
    }

    /// Where the API server has it.
    #[must_use]
    pub fn path(&self, namespace: &str) -> String {
        format!(
            "/apis/{API_VERSION}/namespaces/{namespace}/commercepipelines/{}",
            self.name
        )
    }

    /// The pipeline as it is, if it is, and as it would be.
    pub async fn dry_run(&self, client: &Client, namespace: &str) -> Result<(Option<Value>, Value), Error> {
        let path = self.path(namespace);
        let doing = |what: &str| format!("{what} the CommercePipeline {}", self.name);
        let read = request(Method::GET, &path, "application/json", &Value::Null);
        let live = match client.request::<Value>(read).await {
            Ok(live) => Some(live),
            Err(kube::Error::Api(status)) if status.is_not_found() => None,
            Err(source) => {
                return Err(Error::Kubernetes {
                    doing: doing("reading"),
                    source,
                });
            }
        };
        let applied = live
            .as_ref()
            .and_then(|live| live["metadata"]["annotations"][LAST_APPLIED].as_str());
        let applied = applied.and_then(|text| serde_json::from_str(text).ok());
        let query = "dryRun=All&fieldManager=kubectl&fieldValidation=Strict";
        // As kubectl does: by a three-way patch what it applied by such patches, else by server-side apply.
        let write = match applied {
            Some(applied) => {
                let body = three_way(&applied, &self.body);
                request(
                    Method::PATCH,
                    &format!("{path}?{query}"),
                    "application/merge-patch+json",
                    &body,
                )
            }
            None => request(
                Method::PATCH,
                &format!("{path}?{query}&force=true"),
                "application/apply-patch+yaml",
                &self.body,
            ),
        };
        match client.request::<Value>(write).await {
            Ok(after) => Ok((live, after)),
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                Err(Error::Nowhere(namespace.to_owned()))
            }
            Err(kube::Error::Api(status)) if status.code == 422 || status.code == 400 => {
                let causes = status.details.iter().flat_map(|details| &details.causes);
                let causes: Vec<_> = causes
                    .map(|cause| format!("{}: {}", cause.field, cause.message))
                    .collect();
                let problem = if causes.is_empty() {
                    status.message.clone()
                } else {
                    causes.join("; ")
                };
                Err(Error::Refused {
                    name: self.name.clone(),
                    problem,
                })
            }
            Err(source) => Err(Error::Kubernetes {
                doing: doing("applying, by a dry run,"),
                source,
            }),
        }
    }
}

fn is_name(name: &str) -> bool {
    let known = |character: char| {
        character.is_ascii_lowercase() || character.is_ascii_digit() || "-.".contains(character)
    };
    !name.is_empty() && name.chars().all(known)
}

fn request(method: Method, path: &str, content: &'static str, body: &Value) -> Request<Vec<u8>> {
    let body = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let mut request = Request::new(body);
    *request.method_mut() = method;
    // A path of checked names and constants is one.
    *request.uri_mut() = path.parse().unwrap_or_default();
    request
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static(content));
    request
}

/// A merge patch to what is wanted, which removes what was applied and is not wanted any more.
fn three_way(applied: &Value, wanted: &Value) -> Value {
    let (Value::Object(applied), Value::Object(wanted)) = (applied, wanted) else {
        return wanted.clone();
    };
    let mut patch = Map::new();
    for (key, wanted) in wanted {
        patch.insert(
            key.clone(),
            applied
                .get(key)
                .map_or_else(|| wanted.clone(), |applied| three_way(applied, wanted)),
        );
    }
    for key in applied.keys().filter(|key| !wanted.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_that_is_not_wanted_any_more_is_removed_and_others_are_left() {
        let applied =
            json!({ "spec": { "api": { "replicas": 2, "ingress": {} }, "relay": {} }, "kind": "K" });
        let wanted = json!({ "spec": { "api": { "replicas": 3 } }, "kind": "K" });
        let patch =
            json!({ "spec": { "api": { "replicas": 3, "ingress": null }, "relay": null }, "kind": "K" });
        assert_eq!(three_way(&applied, &wanted), patch);
    }

    #[test]
    fn the_pipelines_of_a_file_are_found_and_those_of_another_namespace_refused() {
        let text = "kind: Secret\n---\napiVersion: commerce.lab/v1alpha1\nkind: CommercePipeline\nmetadata: {name: shop, namespace: a}\n";
        let found = Document::all(text, None).unwrap();
        assert_eq!(
            (found[0].name.as_str(), found[0].namespace.as_deref()),
            ("shop", Some("a"))
        );
        assert!(Document::all(text, Some("b")).is_err());
        for wrong in [
            "kind: Secret",
            "a: [",
            "apiVersion: v2\nkind: CommercePipeline\nmetadata: {name: shop}",
            "kind: CommercePipeline\nmetadata: {name: a/b}",
        ] {
            assert!(Document::all(wrong, None).is_err(), "{wrong}");
        }
    }
}
