//! A cluster in which nothing that is written stays, and everything goes well: what the operator applies is sent as a dry run
//! and kept here, where it is read again; Jobs have succeeded and Deployments are ready. So the reconcile goes its whole way.
//!
//! Only reads and dry runs of server-side apply reach the API server; anything else ends here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::{Method, Request, Response, StatusCode, Uri, header::CONTENT_TYPE, request::Parts};
use kube::{Client, client::Body};
use serde_json::{Value, json};

use super::difference::Change;
use crate::reconcile::autoscaler::STARTER;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A cluster that nothing is changed in. Clones share what was applied.
#[derive(Clone)]
pub struct Rehearsal {
    client: Client,
    kept: Arc<Mutex<Kept>>,
}

impl std::fmt::Debug for Rehearsal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rehearsal").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Kept {
    /// By path: the object as it is, and as it would be.
    objects: BTreeMap<String, (Option<Value>, Option<Value>)>,
    /// Their paths, in the order in which they were first written.
    order: Vec<String>,
    steps: usize,
    /// By path, the replicas that a Deployment is given before they are left to an autoscaler.
    begun: BTreeMap<String, Value>,
    /// What could not be read for want of rights, and what follows from that.
    unread: BTreeSet<String>,
}

impl Rehearsal {
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            kept: Arc::default(),
        }
    }

    /// A client of this cluster.
    #[must_use]
    pub fn client(&self, namespace: &str) -> Client {
        let rehearsal = self.clone();
        let own = format!("/namespaces/{namespace}/");
        let service = tower::service_fn(move |request| {
            let rehearsal = rehearsal.clone();
            let own = own.clone();
            async move { rehearsal.answer(request, &own).await }
        });
        Client::new(service, namespace)
    }

    /// How many writes there were.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.kept().steps
    }

    /// What would change.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        let kept = self.kept();
        let change = |path: &String| {
            let (before, after) = kept.objects.get(path)?;
            Change::between(path, before.as_ref(), after.as_ref())
        };
        // What the operator keeps of versions that run says nothing that the Deployments do not.
        let told = |path: &&String| !path.contains("/controllerrevisions/");
        kept.order.iter().filter(told).filter_map(change).collect()
    }

    /// What could not be read of other pipelines.
    #[must_use]
    pub fn unread(&self) -> Vec<String> {
        self.kept().unread.iter().cloned().collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Body>, own: &str) -> Result<Response<Body>, BoxError> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let apply = parts.headers.get(CONTENT_TYPE);
        let apply = apply.is_some_and(|kind| kind.as_bytes().starts_with(b"application/apply-patch"));
        match parts.method {
            Method::GET => self.read(parts, &path, own).await,
            Method::PATCH if apply && !path.ends_with("/status") => self.apply(parts, body, &path).await,
            Method::DELETE => {
                let before = self.before(&path).await?;
                self.keep(&path, before, None);
                Ok(respond(
                    StatusCode::OK,
                    &json!({ "kind": "Status", "status": "Success" }),
                ))
            }
            _ => Ok(respond(
                StatusCode::METHOD_NOT_ALLOWED,
                &json!({
                    "kind": "Status", "status": "Failure", "code": 405, "reason": "MethodNotAllowed", "message": "a rehearsal changes nothing",
                }),
            )),
        }
    }

    async fn read(&self, parts: Parts, path: &str, own: &str) -> Result<Response<Body>, BoxError> {
        let known = self.kept().objects.get(path).map(|(_, after)| after.clone());
        if let Some(known) = known {
            return Ok(known.map_or_else(not_found, |object| respond(StatusCode::OK, &object)));
        }
        let response = self
            .client
            .send(Request::from_parts(parts, Body::empty()))
            .await?;
        let (status, mut answer) = content(response).await?;
        // The operator may read what other pipelines claim; who makes a plan need not.
        if status == StatusCode::FORBIDDEN && !path.contains(own) {
            let problem = answer["message"].as_str().unwrap_or_default();
            let note = format!(
                "not compared with all other pipelines, which might have the same topics, index or database: {problem}"
            );
            self.kept().unread.insert(note);
            return Ok(if path.ends_with("/commercepipelines") {
                respond(
                    StatusCode::OK,
                    &json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": [] }),
                )
            } else {
                not_found()
            });
        }
        if let Some(items) = answer.get_mut("items").and_then(Value::as_array_mut) {
            let of = |name: &str| format!("{path}/{name}");
            let kept = self.kept();
            items.retain(|item| {
                !kept
                    .objects
                    .contains_key(&of(item["metadata"]["name"].as_str().unwrap_or_default()))
            });
            for item in items.iter_mut() {
                go_well(path, item);
            }
            let here = |of: &str| {
                of.rsplit_once('/')
                    .is_some_and(|(collection, _)| collection == path)
            };
            let added = kept.objects.iter().filter(|(of, _)| here(of));
            items.extend(added.filter_map(|(_, (_, after))| after.clone()));
        }
        Ok(respond(status, &answer))
    }

    async fn apply(&self, mut parts: Parts, body: Body, path: &str) -> Result<Response<Body>, BoxError> {
        let before = self.before(path).await?;
        let query = parts.uri.query().unwrap_or_default();
        if query.contains(STARTER) {
            return self.begin(body, path, before).await;
        }
        parts.uri = format!("{path}?{query}&dryRun=All").parse::<Uri>()?;
        let (status, mut answer) = content(self.client.send(Request::from_parts(parts, body)).await?).await?;
        if status.is_success() {
            if let Some(replicas) = self.kept().begun.get(path) {
                answer["spec"]["replicas"] = replicas.clone();
            }
            if let Some((collection, _)) = path.rsplit_once('/') {
                go_well(collection, &mut answer);
            }
            self.keep(path, before, Some(answer.clone()));
        }
        Ok(respond(status, &answer))
    }

    /// Keeps the replicas that another field manager holds: since nothing is written, the API server would not know of them
    /// in the next dry run, nor of a Deployment that is new.
    async fn begin(&self, body: Body, path: &str, before: Option<Value>) -> Result<Response<Body>, BoxError> {
        let applied: Value = serde_json::from_slice(&body.collect_bytes().await?)?;
        let replicas = applied["spec"]["replicas"].clone();
        let known = self.kept().objects.get(path).and_then(|(_, after)| after.clone());
        let Some(mut object) = known.or_else(|| before.clone()) else {
            return Ok(not_found());
        };
        object["spec"]["replicas"] = replicas.clone();
        if let Some((collection, _)) = path.rsplit_once('/') {
            go_well(collection, &mut object);
        }
        self.kept().begun.insert(path.to_owned(), replicas);
        self.keep(path, before, Some(object.clone()));
        Ok(respond(StatusCode::OK, &object))
    }

    /// The object as it is outside.
    async fn before(&self, path: &str) -> Result<Option<Value>, BoxError> {
        if let Some((before, _)) = self.kept().objects.get(path) {
            return Ok(before.clone());
        }
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = path.parse()?;
        let (status, answer) = content(self.client.send(request).await?).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(answer)),
            status => Err(format!(
                "reading {path}: {status} {}",
                answer["message"].as_str().unwrap_or_default()
            )
            .into()),
        }
    }

    fn keep(&self, path: &str, before: Option<Value>, after: Option<Value>) {
        let mut kept = self.kept();
        kept.steps += 1;
        if kept.objects.insert(path.to_owned(), (before, after)).is_none() {
            kept.order.push(path.to_owned());
        }
    }
}

/// Plays controllers and kubelets. A Job that has failed stays as it is.
fn go_well(collection: &str, object: &mut Value) {
    if collection.ends_with("/deployments") {
        let replicas = object["spec"]["replicas"].as_i64().unwrap_or(1);
        object["status"] = json!({
            "observedGeneration": object["metadata"]["generation"],
            "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas,
        });
    } else if collection.ends_with("/jobs") {
        let conditions = object["status"]["conditions"].as_array();
        let failed = conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Failed");
        if !failed {
            object["status"] = json!({ "conditions": [{ "type": "Complete", "status": "True" }] });
        }
    }
}

async fn content(response: Response<Body>) -> Result<(StatusCode, Value), BoxError> {
    let status = response.status();
    let bytes = response.into_body().collect_bytes().await?;
    // A group that the API server does not serve, for one, is told of as text.
    let text = || json!({ "kind": "Status", "status": "Failure", "code": status.as_u16(), "message": String::from_utf8_lossy(&bytes) });
    Ok((status, serde_json::from_slice(&bytes).unwrap_or_else(|_| text())))
}

fn respond(status: StatusCode, answer: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
    *response.status_mut() = status;
    response
}

fn not_found() -> Response<Body> {
    respond(
        StatusCode::NOT_FOUND,
        &json!({
            "kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found",
        }),
    )
}
