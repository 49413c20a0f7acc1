//! A small API server in memory: objects by path, server-side apply as a merge, resource versions that move only when
//! something changed. It runs no controllers; tests play them.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body};
use serde_json::{Value, json};

use crate::stores::Journal;

type Objects = BTreeMap<String, Value>;

#[derive(Clone)]
pub struct Cluster {
    objects: Arc<Mutex<Objects>>,
    /// What each field manager applied last, by path: a field that it does not apply any more goes.
    applied: Arc<Mutex<BTreeMap<(String, String), Value>>>,
    journal: Journal,
    away: Arc<AtomicBool>,
    refused: Arc<Mutex<Option<(&'static str, StatusCode)>>>,
}

/// Path of the pipeline of the fixtures.
pub const PIPELINE: &str = "/apis/commerce.lab/v1alpha1/namespaces/store/commercepipelines/shop";

impl Cluster {
    pub fn new(journal: Journal) -> Self {
        Self {
            objects: Arc::default(),
            applied: Arc::default(),
            journal,
            away: Arc::default(),
            refused: Arc::default(),
        }
    }

    pub fn client(&self) -> Client {
        let cluster = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let cluster = cluster.clone();
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                let query = parts.uri.query().unwrap_or_default();
                let manager = query
                    .split('&')
                    .find_map(|part| part.strip_prefix("fieldManager="));
                let (status, answer) = cluster.answer(&parts.method, parts.uri.path(), manager, &body);
                let body = Body::from(answer.to_string().into_bytes());
                Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
            }
        });
        Client::new(service, "default")
    }

    /// Every request fails from now on.
    pub fn go_away(&self) {
        self.away.store(true, Ordering::Relaxed);
    }

    /// Requests are answered again.
    pub fn come_back(&self) {
        self.away.store(false, Ordering::Relaxed);
    }

    /// The next change of something whose path ends like this is answered with this status, and not made.
    pub fn refuse_next(&self, path: &'static str, status: StatusCode) {
        *self.refused.lock().unwrap() = Some((path, status));
    }

    /// The object at a path.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.objects.lock().unwrap().get(path).cloned()
    }

    /// Changes an object, as another client or controller would.
    pub fn edit(&self, path: &str, edit: impl FnOnce(&mut Value)) {
        let mut objects = self.objects.lock().unwrap();
        let object = objects.get_mut(path).unwrap_or_else(|| panic!("no {path}"));
        edit(object);
        bump(object);
    }

    pub fn put(&self, path: &str, object: Value) {
        self.objects.lock().unwrap().insert(path.to_owned(), object);
    }

    pub fn remove(&self, path: &str) {
        self.objects.lock().unwrap().remove(path);
    }

    /// Paths of all objects whose path contains `part`.
    pub fn paths(&self, part: &str) -> Vec<String> {
        self.objects
            .lock()
            .unwrap()
            .keys()
            .filter(|path| path.contains(part))
            .cloned()
            .collect()
    }

    /// Plays the Job controller.
    pub fn finish_jobs(&self, condition: &str) {
        for path in self.paths("/jobs/") {
            self.edit(&path, |job| {
                job["status"] = json!({ "conditions": [{ "type": condition, "status": "True" }] });
            });
        }
    }

    /// Plays the Deployment controller and the kubelets.
    pub fn start_pods(&self) {
        for path in self.paths("/deployments/") {
            self.edit(&path, |deployment| {
                let replicas = deployment["spec"]["replicas"].clone();
                deployment["status"] = json!({
                    "observedGeneration": deployment["metadata"]["generation"],
                    "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas,
                });
            });
        }
    }

    /// One running pod of each of these components.
    pub fn run_pods(&self, components: &[&str]) {
        for component in components {
            let name = format!("shop-{component}-x");
            let labels = json!({ "app.kubernetes.io/component": component });
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": labels },
                "status": { "phase": "Running", "podIP": "10.0.0.7" },
            });
            self.put(&format!("/api/v1/namespaces/store/pods/{name}"), pod);
        }
    }

    fn let_go(&self, object: &mut Value, path: &str, manager: &str, body: &Value) {
        let mut applied = self.applied.lock().unwrap();
        let before = applied.insert((path.to_owned(), manager.to_owned()), body.clone());
        let others = applied
            .iter()
            .filter(|((at, by), _)| at == path && by != manager)
            .map(|(_, body)| body)
            .collect::<Vec<_>>();
        if let Some(before) = before {
            withdraw(object, &before, body, &others);
        }
    }

    fn refusal(&self, method: &Method, path: &str) -> Option<(StatusCode, Value)> {
        if self.away.load(Ordering::Relaxed) {
            return Some(failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"));
        }
        let refuses = |refused: &mut (&str, StatusCode)| *method != Method::GET && path.ends_with(refused.0);
        let (_, status) = self.refused.lock().unwrap().take_if(refuses)?;
        let reason = status.canonical_reason().unwrap_or_default().replace(' ', "");
        Some(failure(status, &reason))
    }

    fn answer(
        &self,
        method: &Method,
        path: &str,
        manager: Option<&str>,
        body: &Value,
    ) -> (StatusCode, Value) {
        if let Some(refusal) = self.refusal(method, path) {
            return refusal;
        }
        let mut objects = self.objects.lock().unwrap();
        let note = |what: &str| {
            let entry = format!("{what} {}", short(path));
            self.journal.lock().unwrap().push(entry);
        };
        match *method {
            Method::GET if path == "/apis/commerce.lab/v1alpha1/commercepipelines" => {
                let all = objects
                    .iter()
                    .filter(|(path, _)| path.contains("/commercepipelines/"));
                let items: Vec<_> = all.map(|(_, object)| object.clone()).collect();
                let list = json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items });
                (StatusCode::OK, list)
            }
            Method::GET if is_collection(path) => {
                let prefix = format!("{path}/");
                let items: Vec<_> = objects
                    .range(prefix.clone()..)
                    .take_while(|(p, _)| p.starts_with(&prefix))
                    .collect();
                let items: Vec<_> = items.into_iter().map(|(_, object)| object.clone()).collect();
                (
                    StatusCode::OK,
                    json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items }),
                )
            }
            Method::GET => objects
                .get(path)
                .map_or_else(not_found, |object| (StatusCode::OK, object.clone())),
            Method::POST if path.ends_with("/events") => {
                note(&format!("event {}", body["reason"].as_str().unwrap_or_default()));
                (StatusCode::CREATED, body.clone())
            }
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or_default());
                if objects.contains_key(&path) {
                    return failure(StatusCode::CONFLICT, "AlreadyExists");
                }
                let mut object = body.clone();
                bump(&mut object);
                objects.insert(path, object.clone());
                (StatusCode::CREATED, object)
            }
            Method::PUT => {
                let Some(object) = objects.get_mut(path) else {
                    return not_found();
                };
                if object["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                    return failure(StatusCode::CONFLICT, "Conflict");
                }
                *object = body.clone();
                bump(object);
                (StatusCode::OK, object.clone())
            }
            Method::DELETE => {
                note("delete");
                match objects.remove(path) {
                    Some(object) => (StatusCode::OK, object),
                    None => not_found(),
                }
            }
            Method::PATCH if path.ends_with("/status") => {
                note("status");
                let Some(object) = objects.get_mut(path.trim_end_matches("/status")) else {
                    return not_found();
                };
                object["status"] = body["status"].clone();
                bump(object);
                (StatusCode::OK, object.clone())
            }
            Method::PATCH => {
                note("apply");
                let object = objects
                    .entry(path.to_owned())
                    .or_insert_with(|| json!({ "metadata": { "generation": 0, "uid": path } }));
                let before = object.clone();
                if let Some(manager) = manager {
                    self.let_go(object, path, manager, body);
                }
                merge(object, body);
                if path.contains("/deployments/") && object["spec"]["replicas"].is_null() {
                    object["spec"]["replicas"] = json!(1);
                }
                if object["spec"] != before["spec"] {
                    object["metadata"]["generation"] =
                        json!(before["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
                }
                if *object != before {
                    bump(object);
                }
                let after = object.clone();
                let held = after["metadata"]["finalizers"]
                    .as_array()
                    .is_some_and(|list| !list.is_empty());
                if after["metadata"]["deletionTimestamp"].is_string() && !held {
                    objects.remove(path);
                }
                (StatusCode::OK, after)
            }
            _ => (StatusCode::METHOD_NOT_ALLOWED, Value::Null),
        }
    }
}

/// Removes what was applied and is not any more, unless others apply it.
fn withdraw(object: &mut Value, applied: &Value, body: &Value, others: &[&Value]) {
    let (Value::Object(object), Value::Object(applied)) = (object, applied) else {
        return;
    };
    for (key, applied) in applied {
        let others: Vec<_> = others.iter().filter_map(|other| other.get(key)).collect();
        match (object.get_mut(key), body.get(key)) {
            (Some(value), Some(body)) => withdraw(value, applied, body, &others),
            (Some(_), None) if others.is_empty() => drop(object.remove(key)),
            _ => {}
        }
    }
}

fn bump(object: &mut Value) {
    let version = object["metadata"]["resourceVersion"]
        .as_str()
        .and_then(|v| v.parse::<u64>().ok())
        .unwrap_or(0);
    object["metadata"]["resourceVersion"] = json!((version + 1).to_string());
}

/// Lists are replaced, as the lists of this operator's objects are.
fn merge(object: &mut Value, patch: &Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(object.entry(key).or_insert(Value::Null), value);
            }
        }
        (object, patch) => *object = patch.clone(),
    }
}

/// `/api/v1/namespaces/n/secrets` and `/apis/g/v/namespaces/n/kinds` end with a kind, paths of objects with a name.
fn is_collection(path: &str) -> bool {
    let parts = path.split('/').count();
    parts == if path.starts_with("/apis/") { 7 } else { 6 }
}

fn short(path: &str) -> String {
    let parts: Vec<_> = path.trim_end_matches("/status").rsplit('/').take(2).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join("/")
}

fn not_found() -> (StatusCode, Value) {
    failure(StatusCode::NOT_FOUND, "NotFound")
}

fn failure(code: StatusCode, reason: &str) -> (StatusCode, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code.as_u16(), "message": reason,
    });
    (code, status)
}
