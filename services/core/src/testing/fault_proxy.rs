//! An Elasticsearch that misbehaves on demand.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{
        HeaderMap, Method, StatusCode, Uri,
        header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    },
    response::{IntoResponse as _, Response},
};
use elasticsearch::http::Url;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use super::{Error, ports::Port, process::failure};

/// Passes requests on to Elasticsearch, but for those that are to fail. What it refuses never reaches Elasticsearch.
#[derive(Debug)]
pub struct FaultProxy {
    url: Url,
    shared: Arc<Shared>,
    _port: Port,
    _task: AbortOnDropHandle<()>,
}

/// What goes wrong; nothing by default.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Every request is answered with this status.
    pub status: Option<StatusCode>,
    /// A bulk request of more documents is answered with 429.
    pub most_documents: Option<usize>,
    /// Of a bulk request of more documents, every document is answered with 429.
    pub most_in_shard: Option<usize>,
    /// Of each bulk request, every second document is answered with 429.
    pub every_second: bool,
    /// Every answer comes so much later.
    pub delay: Duration,
}

/// A bulk request that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenBulk {
    pub documents: usize,
    /// Those of them that were answered with an error of the proxy's own.
    pub refused: usize,
}

#[derive(Debug)]
struct Shared {
    target: Url,
    client: reqwest::Client,
    faults: Mutex<Faults>,
    bulks: Mutex<Vec<SeenBulk>>,
}

impl FaultProxy {
    /// Listens on a free port, for requests to the Elasticsearch at `target`.
    pub async fn start(target: &Url) -> Result<Self, Error> {
        let port = Port::claim().map_err(failure("fault proxy", "finding a port"))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number));
        let listener = TcpListener::bind(address)
            .await
            .map_err(failure("fault proxy", "listening"))?;
        let url = format!("http://{address}");
        let url = Url::parse(&url).map_err(|error| Error::Address(format!("{url}: {error}")))?;
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .map_err(|error| Error::Address(format!("{target}: {error}")))?;
        let shared = Arc::new(Shared {
            target: target.clone(),
            client,
            faults: Mutex::default(),
            bulks: Mutex::default(),
        });
        let router = Router::new()
            .fallback(answer)
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            // A test that needs it notices that it has ended.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            url,
            shared,
            _port: port,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// `http://127.0.0.1:<port>/`
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// What goes wrong from now on, and nothing else.
    pub fn set(&self, faults: Faults) {
        *lock(&self.shared.faults) = faults;
    }

    /// The bulk requests that have been answered so far, in the order of their answers.
    #[must_use]
    pub fn bulks(&self) -> Vec<SeenBulk> {
        lock(&self.shared.bulks).clone()
    }
}

/// A request, without its body.
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let head = Head { method, uri, headers };
    let faults = lock(&shared.faults).clone();
    let response = if head.uri.path().ends_with("/_bulk") {
        shared.bulk(&faults, head, body).await
    } else if let Some(status) = faults.status {
        refusal(status)
    } else {
        shared.pass(head, body).await
    };
    sleep(faults.delay).await;
    response
}

impl Shared {
    async fn bulk(&self, faults: &Faults, head: Head, body: Bytes) -> Response {
        let documents = documents(&body);
        let exceeds = |most: Option<usize>| most.is_some_and(|most| documents.len() > most);
        let (response, refused) = if let Some(status) = faults.status {
            (refusal(status), documents.len())
        } else if exceeds(faults.most_documents) {
            (refusal(StatusCode::TOO_MANY_REQUESTS), documents.len())
        } else if exceeds(faults.most_in_shard) {
            let items = vec![refused_item(); documents.len()];
            (items_answer(&items), documents.len())
        } else if faults.every_second {
            (
                self.pass_every_second(head, &documents).await,
                documents.len() / 2,
            )
        } else {
            (self.pass(head, body.clone()).await, 0)
        };
        lock(&self.bulks).push(SeenBulk {
            documents: documents.len(),
            refused,
        });
        response
    }

    /// The first document is passed on, the second is not, and so on.
    async fn pass_every_second(&self, head: Head, documents: &[&[u8]]) -> Response {
        let passed: Vec<_> = documents.iter().copied().step_by(2).collect();
        let (parts, body) = self.pass(head, Bytes::from(passed.concat())).await.into_parts();
        let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
            return StatusCode::BAD_GATEWAY.into_response();
        };
        let answer = serde_json::from_slice::<Value>(&body).ok();
        let Some(items) = answer.as_ref().and_then(|answer| answer["items"].as_array()) else {
            return Response::from_parts(parts, body.into());
        };
        let items = items.iter().flat_map(|item| [item.clone(), refused_item()]);
        items_answer(&items.take(documents.len()).collect::<Vec<_>>())
    }

    async fn pass(&self, head: Head, body: Bytes) -> Response {
        let Head {
            method,
            uri,
            mut headers,
        } = head;
        for of_this_connection in [HOST, CONTENT_LENGTH, TRANSFER_ENCODING] {
            headers.remove(of_this_connection);
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let Ok(url) = self.target.join(path) else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        let sent = self
            .client
            .request(method, url)
            .headers(headers)
            .body(body)
            .send();
        let answer = async {
            let answer = sent.await?;
            let (status, mut headers) = (answer.status(), answer.headers().clone());
            for of_that_connection in [CONTENT_LENGTH, TRANSFER_ENCODING] {
                headers.remove(of_that_connection);
            }
            Ok::<_, reqwest::Error>((status, headers, answer.bytes().await?))
        };
        match answer.await {
            Ok(answer) => answer.into_response(),
            Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        }
    }
}

/// The lines of each document of a bulk request: an action and, unless that is a deletion, a source.
fn documents(mut body: &[u8]) -> Vec<&[u8]> {
    let mut documents = Vec::new();
    while !body.is_empty() {
        let lines = if body.starts_with(b"{\"delete\"") { 1 } else { 2 };
        let newlines = body.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let end = newlines.map(|(at, _)| at + 1).nth(lines - 1);
        let (document, rest) = body.split_at(end.unwrap_or(body.len()));
        documents.push(document);
        body = rest;
    }
    documents
}

/// As Elasticsearch words it when its queues are full.
fn error() -> Value {
    json!({"type": "es_rejected_execution_exception", "reason": "rejected by a test"})
}

fn refused_item() -> Value {
    json!({"index": {"status": 429, "error": error()}})
}

fn items_answer(items: &[Value]) -> Response {
    Json(json!({"errors": true, "items": items})).into_response()
}

fn refusal(status: StatusCode) -> Response {
    let body = json!({"error": error(), "status": status.as_u16()});
    (status, Json(body)).into_response()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use axum::routing::post;

    use super::*;

    /// A server that takes every document of a bulk request, and says which bodies it got.
    async fn target() -> (Url, Arc<Mutex<Vec<Bytes>>>, AbortOnDropHandle<()>) {
        let bodies = Arc::<Mutex<Vec<Bytes>>>::default();
        let seen = Arc::clone(&bodies);
        let take = post(async move |body: Bytes| {
            let items = vec![json!({"index": {"status": 201}}); documents(&body).len()];
            lock(&seen).push(body);
            Json(json!({"items": items}))
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = axum::serve(listener, Router::new().route("/orders/_bulk", take));
        let task = tokio::spawn(async move { serve.await.unwrap() });
        (Url::parse(&url).unwrap(), bodies, AbortOnDropHandle::new(task))
    }

    async fn post_bulk(proxy: &FaultProxy, body: &'static str) -> (u16, Vec<u64>) {
        let url = proxy.url().join("orders/_bulk?filter_path=items").unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.post(url).body(body).send().await.unwrap();
        let status = answer.status().as_u16();
        let answer: Value = answer.json().await.unwrap();
        let items = answer["items"].as_array().cloned().unwrap_or_default();
        let statuses = items.iter().filter_map(|item| item["index"]["status"].as_u64());
        (status, statuses.collect())
    }

    #[tokio::test]
    async fn what_is_refused_never_reaches_the_target_and_the_rest_does() {
        let (url, bodies, _task) = target().await;
        let proxy = FaultProxy::start(&url).await.unwrap();
        let body = "{\"index\":1}\n{\"a\":1}\n{\"delete\":2}\n{\"index\":3}\n{\"a\":3}\n";
        assert_eq!(post_bulk(&proxy, body).await, (200, vec![201, 201, 201]));
        proxy.set(Faults {
            every_second: true,
            ..Faults::default()
        });
        assert_eq!(post_bulk(&proxy, body).await, (200, vec![201, 429, 201]));
        proxy.set(Faults {
            most_documents: Some(2),
            ..Faults::default()
        });
        assert_eq!(post_bulk(&proxy, body).await, (429, vec![]));
        proxy.set(Faults {
            most_in_shard: Some(2),
            ..Faults::default()
        });
        assert_eq!(post_bulk(&proxy, body).await, (200, vec![429, 429, 429]));
        proxy.set(Faults {
            status: Some(StatusCode::SERVICE_UNAVAILABLE),
            ..Faults::default()
        });
        assert_eq!(post_bulk(&proxy, body).await, (503, vec![]));
        let two = "{\"index\":1}\n{\"a\":1}\n{\"index\":3}\n{\"a\":3}\n";
        assert_eq!(*lock(&bodies), [body, two]);
        let refused: Vec<_> = proxy.bulks().iter().map(|bulk| bulk.refused).collect();
        assert_eq!(refused, [0, 1, 3, 3, 3]);
    }
}
