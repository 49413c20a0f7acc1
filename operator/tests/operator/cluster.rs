//! A small API server in memory: objects by path, server-side apply, watches, and resource versions that move only when
//! something changed. It runs no controllers; tests play them.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use commerce_operator::metrics::CountRequests;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE, request::Parts};
use kube::{Client, client::Body};
use prometheus_client::metrics::family::Family;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower::Layer as _;

use crate::{faults::Faults, stores::Journal};

#[derive(Clone)]
pub struct Cluster {
    kept: Arc<Mutex<Kept>>,
    news: Arc<Notify>,
    journal: Journal,
    away: Arc<AtomicBool>,
    refused: Arc<Mutex<Option<(&'static str, StatusCode)>>>,
    forbidden: Arc<Mutex<Option<&'static str>>>,
    pub faults: Faults,
}

#[derive(Clone, Default)]
struct Kept {
    objects: BTreeMap<String, Value>,
    /// What each field manager applied last, by path: a field that it does not apply any more goes.
    applied: BTreeMap<(String, String), Value>,
    version: u64,
    /// What watches tell: the version, and the event.
    log: Vec<(u64, String, Value)>,
}

/// Path of the pipeline of the fixtures.
pub const PIPELINE: &str = "/apis/commerce.lab/v1alpha1/namespaces/store/commercepipelines/shop";

impl Cluster {
    pub fn new(journal: Journal) -> Self {
        Self {
            kept: Arc::default(),
            news: Arc::default(),
            journal,
            away: Arc::default(),
            refused: Arc::default(),
            forbidden: Arc::default(),
            faults: Faults::default(),
        }
    }

    /// Another cluster with the same objects, which nobody watches yet.
    pub fn copy(&self) -> Self {
        let mut kept = self.kept().clone();
        kept.log.clear();
        Self {
            kept: Arc::new(Mutex::new(kept)),
            ..Self::new(Journal::default())
        }
    }

    pub fn client(&self) -> Client {
        self.counted_client(&CountRequests(Family::default()))
    }

    /// A client whose requests are counted.
    pub fn counted_client(&self, count: &CountRequests) -> Client {
        let cluster = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let cluster = cluster.clone();
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                let (status, answer) = cluster.serve(&parts, &body).await;
                Ok::<_, Infallible>(
                    Response::builder()
                        .status(status)
                        .body(Body::from(answer))
                        .unwrap(),
                )
            }
        });
        Client::new(count.layer(service), "default")
    }

    /// Every request fails from now on, and watches end.
    pub fn go_away(&self) {
        self.away.store(true, Ordering::Relaxed);
        self.news.notify_waiters();
    }

    /// Requests are answered again.
    pub fn come_back(&self) {
        self.away.store(false, Ordering::Relaxed);
    }

    /// The next change of something whose path ends like this is answered with this status, and not made.
    pub fn refuse_next(&self, path: &'static str, status: StatusCode) {
        *self.refused.lock().unwrap() = Some((path, status));
    }

    /// Nobody may read this path.
    pub fn forbid(&self, path: &'static str) {
        *self.forbidden.lock().unwrap() = Some(path);
    }

    /// The object at a path.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.kept().objects.get(path).cloned()
    }

    /// Changes an object, as another client or controller would.
    pub fn edit(&self, path: &str, edit: impl FnOnce(&mut Value)) {
        let mut object = self.get(path).unwrap_or_else(|| panic!("no {path}"));
        edit(&mut object);
        self.put(path, object);
    }

    pub fn put(&self, path: &str, object: Value) {
        self.kept().put(path, object);
        self.news.notify_waiters();
    }

    pub fn remove(&self, path: &str) {
        self.kept().remove(path);
        self.news.notify_waiters();
    }

    /// Paths of all objects whose path contains `part`.
    pub fn paths(&self, part: &str) -> Vec<String> {
        let kept = self.kept();
        kept.objects
            .keys()
            .filter(|path| path.contains(part))
            .cloned()
            .collect()
    }

    /// Everything there is, as `look` finds it.
    pub fn look<T>(&self, look: impl FnOnce(&BTreeMap<String, Value>) -> T) -> T {
        look(&self.kept().objects)
    }

    /// Everything there is.
    pub fn objects(&self) -> BTreeMap<String, Value> {
        self.kept().objects.clone()
    }

    /// Moves with every change.
    pub fn version(&self) -> u64 {
        self.kept().version
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

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    async fn serve(&self, parts: &Parts, body: &Value) -> (StatusCode, Vec<u8>) {
        let query = parts.uri.query().unwrap_or_default();
        if query.contains("watch=true") {
            return self.watch(parts.uri.path(), query).await;
        }
        let writes = parts.method != Method::GET;
        let answer = || {
            if writes {
                let (status, answer) = self.answer(parts, body);
                self.news.notify_waiters();
                (status, bytes(&answer))
            } else {
                self.read(parts.uri.path())
            }
        };
        self.faults.call(writes, answer).await.unwrap_or_else(|| {
            let (status, answer) = failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
            (status, bytes(&answer))
        })
    }

    fn read(&self, path: &str) -> (StatusCode, Vec<u8>) {
        if let Some((status, answer)) = self.refusal(&Method::GET, path) {
            return (status, bytes(&answer));
        }
        if *self.forbidden.lock().unwrap() == Some(path) {
            return (
                StatusCode::FORBIDDEN,
                bytes(&failure(StatusCode::FORBIDDEN, "Forbidden").1),
            );
        }
        let kept = self.kept();
        if is_collection(path) {
            let items = kept.objects.iter().filter(|(of, _)| is_in(path, of));
            let list = List {
                api_version: "v1",
                kind: "List",
                metadata: json!({ "resourceVersion": kept.version.to_string() }),
                items: items.map(|(_, object)| object).collect(),
            };
            return (StatusCode::OK, bytes(&list));
        }
        match kept.objects.get(path) {
            Some(object) => (StatusCode::OK, bytes(object)),
            // As the API server answers of a group that it does not serve.
            None if path.split('/').count() == 4 => (StatusCode::NOT_FOUND, b"404 page not found\n".to_vec()),
            None => (StatusCode::NOT_FOUND, bytes(&not_found().1)),
        }
    }

    /// Tells what has changed, and ends: clients watch again from there.
    async fn watch(&self, path: &str, query: &str) -> (StatusCode, Vec<u8>) {
        let seen = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("resourceVersion="));
        let seen: u64 = seen.and_then(|version| version.parse().ok()).unwrap_or_default();
        loop {
            let notified = self.news.notified();
            if self.away.load(Ordering::Relaxed) {
                let (status, answer) = failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
                return (status, bytes(&answer));
            }
            let events: String = {
                let kept = self.kept();
                let told = kept
                    .log
                    .iter()
                    .filter(|(version, of, _)| *version > seen && is_in(path, of));
                told.flat_map(|(_, _, event)| [event.to_string(), "\n".to_owned()])
                    .collect()
            };
            if !events.is_empty() {
                return (StatusCode::OK, events.into_bytes());
            }
            notified.await;
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

    fn answer(&self, parts: &Parts, body: &Value) -> (StatusCode, Value) {
        let path = parts.uri.path();
        if let Some(refusal) = self.refusal(&parts.method, path) {
            return refusal;
        }
        let dry_run = parts
            .uri
            .query()
            .is_some_and(|query| query.contains("dryRun=All"));
        let note = |what: &str| {
            if !dry_run {
                let entry = format!("{what} {}", short(path));
                self.journal.lock().unwrap().push(entry);
            }
        };
        let mut kept = self.kept();
        match parts.method {
            Method::POST if path.ends_with("/events") => {
                note(&format!("event {}", body["reason"].as_str().unwrap_or_default()));
                (StatusCode::CREATED, body.clone())
            }
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or_default());
                if kept.objects.contains_key(&path) {
                    return failure(StatusCode::CONFLICT, "AlreadyExists");
                }
                kept.put(&path, body.clone());
                kept.answer(&path)
            }
            Method::PUT => {
                let Some(object) = kept.objects.get(path) else {
                    return not_found();
                };
                if object["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                    return failure(StatusCode::CONFLICT, "Conflict");
                }
                kept.put(path, body.clone());
                kept.answer(path)
            }
            Method::DELETE => {
                note("delete");
                kept.remove(path)
                    .map_or_else(not_found, |object| (StatusCode::OK, object))
            }
            Method::PATCH if path.ends_with("/status") => {
                note("status");
                let path = path.trim_end_matches("/status");
                let Some(mut object) = kept.objects.get(path).cloned() else {
                    return not_found();
                };
                object["status"] = body["status"].clone();
                kept.put(path, object);
                kept.answer(path)
            }
            Method::PATCH => {
                note("apply");
                let apply = parts.headers.get(CONTENT_TYPE);
                let apply = apply.is_some_and(|kind| kind.as_bytes().starts_with(b"application/apply-patch"));
                let before = kept.objects.get(path).cloned();
                let manager = manager(parts);
                let patched = if apply {
                    Ok(kept.apply(path, manager, before.as_ref(), body))
                } else {
                    changed(before.as_ref(), body)
                };
                match patched {
                    Ok(object) if dry_run => (StatusCode::OK, object),
                    Ok(object) => {
                        if apply {
                            kept.applied
                                .insert((path.to_owned(), manager.to_owned()), body.clone());
                        }
                        kept.put(path, object.clone());
                        let answer = kept.answer(path);
                        let held = object["metadata"]["finalizers"]
                            .as_array()
                            .is_some_and(|list| !list.is_empty());
                        if object["metadata"]["deletionTimestamp"].is_string() && !held {
                            kept.remove(path);
                        }
                        answer
                    }
                    Err(failed) => failed,
                }
            }
            _ => (StatusCode::METHOD_NOT_ALLOWED, Value::Null),
        }
    }
}

impl Kept {
    fn put(&mut self, path: &str, mut object: Value) {
        let before = self.objects.get(path);
        if before == Some(&object) {
            return;
        }
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let event = json!({ "type": kind, "object": object });
        self.log.push((self.version, path.to_owned(), event));
        self.objects.insert(path.to_owned(), object);
    }

    fn remove(&mut self, path: &str) -> Option<Value> {
        self.applied.retain(|(at, _), _| at != path);
        let mut object = self.objects.remove(path)?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let event = json!({ "type": "DELETED", "object": object });
        self.log.push((self.version, path.to_owned(), event));
        Some(object)
    }

    fn answer(&self, path: &str) -> (StatusCode, Value) {
        let object = self.objects.get(path);
        object.map_or_else(not_found, |object| (StatusCode::OK, object.clone()))
    }

    /// The object as server-side apply makes it.
    fn apply(&self, path: &str, manager: &str, before: Option<&Value>, body: &Value) -> Value {
        let fresh = || json!({ "metadata": { "generation": 0, "uid": path, "creationTimestamp": "2026-06-01T00:00:00Z" } });
        let mut object = before.cloned().unwrap_or_else(fresh);
        if let Some(applied) = self.applied.get(&(path.to_owned(), manager.to_owned())) {
            let all = self.applied.iter();
            let others: Vec<_> = all
                .filter(|((at, by), _)| at == path && by != manager)
                .map(|(_, body)| body)
                .collect();
            withdraw(&mut object, applied, body, &others);
        }
        merge(&mut object, body);
        if path.contains("/deployments/") && object["spec"]["replicas"].is_null() {
            object["spec"]["replicas"] = json!(1);
        }
        if before.is_none_or(|before| before["spec"] != object["spec"]) {
            let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
            object["metadata"]["generation"] = json!(generation + 1);
        }
        object
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: Value,
    items: Vec<&'a Value>,
}

fn bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

/// The object after a merge patch, which only succeeds on the version that it names.
fn changed(before: Option<&Value>, patch: &Value) -> Result<Value, (StatusCode, Value)> {
    let Some(before) = before else {
        return Err(not_found());
    };
    let version = &patch["metadata"]["resourceVersion"];
    if version.is_string() && *version != before["metadata"]["resourceVersion"] {
        return Err(failure(StatusCode::CONFLICT, "Conflict"));
    }
    let mut object = before.clone();
    merge(&mut object, patch);
    Ok(object)
}

/// A null removes a field. Lists are replaced, as the lists of this operator's objects are.
fn merge(object: &mut Value, patch: &Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    object.shift_remove(key);
                } else {
                    merge(object.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (object, patch) => *object = patch.clone(),
    }
}

/// Who applies.
fn manager(parts: &Parts) -> &str {
    let query = parts.uri.query().unwrap_or_default();
    let manager = query
        .split('&')
        .find_map(|part| part.strip_prefix("fieldManager="));
    manager.unwrap_or_default()
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

/// `/api/v1/namespaces/n/secrets` and `/apis/g/v/namespaces/n/kinds` end with a kind, paths of objects with a name.
fn is_collection(path: &str) -> bool {
    let parts = path.split('/').count();
    if path.starts_with("/apis/") {
        parts == 5 || parts == 7
    } else {
        parts == 4 || parts == 6
    }
}

/// Whether the object at `path` is one of a collection, which is that of a namespace or of all.
fn is_in(collection: &str, path: &str) -> bool {
    let Some((parent, _)) = path.rsplit_once('/') else {
        return false;
    };
    let Some((group, rest)) = parent.split_once("/namespaces/") else {
        return parent == collection;
    };
    let everywhere = rest.split_once('/').map(|(_, kind)| format!("{group}/{kind}"));
    parent == collection || everywhere.as_deref() == Some(collection)
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
