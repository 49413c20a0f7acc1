//! Requests to the Kubernetes API, counted by a layer of the client, so that none is missed. One that the client sends again by
//! itself counts once, with the last answer.

use std::task::{Context, Poll};

use futures::{FutureExt as _, future::BoxFuture};
use http::{Method, Uri};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use tower::{Layer, Service};

/// A request, by what does not differ between pipelines.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Request {
    /// As in roles: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`.
    pub verb: &'static str,
    /// As in roles: `deployments`, `commercepipelines/status`; `discovery` where kinds are asked for.
    pub resource: String,
    /// HTTP status, or `none` where no answer came.
    pub code: String,
}

/// Makes a client count its requests.
#[derive(Clone, Debug)]
pub struct CountRequests(pub Family<Request, Counter>);

impl<S> Layer<S> for CountRequests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            requests: self.0.clone(),
        }
    }
}

/// A client's service that counts.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    requests: Family<Request, Counter>,
}

impl<S, Body, Answer> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Answer>>,
    S::Future: Send + 'static,
    Answer: 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (verb, resource) = kind(request.method(), request.uri());
        let requests = self.requests.clone();
        let count = move |code: String| {
            let request = Request { verb, resource, code };
            requests.get_or_create(&request).inc();
        };
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await;
            count(match &answer {
                Ok(answer) => answer.status().as_str().to_owned(),
                Err(_) => "none".to_owned(),
            });
            answer
        }
        .boxed()
    }
}

/// Verb and resource of a request: `/api/v1` or `/apis/<group>/<version>`, then `namespaces/<namespace>` where there is one,
/// then the resource, a name and a subresource.
fn kind(method: &Method, uri: &Uri) -> (&'static str, String) {
    let parts: Vec<_> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let rest = match parts.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => &[],
    };
    let rest = match rest {
        ["namespaces", _, inside @ ..] if !inside.is_empty() => inside,
        _ => rest,
    };
    let (resource, named) = match rest {
        [] => ("discovery".to_owned(), true),
        [resource] => ((*resource).to_owned(), false),
        [resource, _] => ((*resource).to_owned(), true),
        [resource, _, subresource, ..] => (format!("{resource}/{subresource}"), true),
    };
    let watches = uri
        .query()
        .is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
    let verb = match *method {
        Method::GET if watches => "watch",
        Method::GET if named => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => "other",
    };
    (verb, resource)
}

#[cfg(test)]
mod tests {
    use http::{Method, Uri};

    use super::kind;

    #[test]
    fn requests_are_told_apart_as_roles_do() {
        let of = |method, path: &'static str| {
            let (verb, resource) = kind(&method, &Uri::from_static(path));
            format!("{verb} {resource}")
        };
        assert_eq!(
            of(Method::GET, "/api/v1/namespaces/a/pods?labelSelector=b"),
            "list pods"
        );
        assert_eq!(
            of(Method::GET, "/api/v1/secrets?watch=true&limit=1"),
            "watch secrets"
        );
        assert_eq!(
            of(Method::GET, "/apis/apps/v1/namespaces/a/deployments/b"),
            "get deployments"
        );
        assert_eq!(
            of(
                Method::PATCH,
                "/apis/commerce.lab/v1alpha1/namespaces/a/commercepipelines/b/status"
            ),
            "patch commercepipelines/status"
        );
        assert_eq!(
            of(Method::POST, "/apis/events.k8s.io/v1/namespaces/a/events"),
            "create events"
        );
        assert_eq!(
            of(Method::DELETE, "/apis/batch/v1/namespaces/a/jobs/b"),
            "delete jobs"
        );
        assert_eq!(of(Method::GET, "/apis/monitoring.coreos.com/v1"), "get discovery");
        assert_eq!(of(Method::GET, "/api/v1/namespaces/a"), "get namespaces");
    }
}
