//! Connections: how many there may be, how long they may take to say what they want, and how they end.
//!
//! They speak HTTP/1.1. TLS and HTTP/2 are what the ingress speaks to callers. A head that is too large is answered with 431
//! and no body, since no request has come about that an action could answer.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    serve::{Listener as _, ListenerExt as _},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service as _;

use crate::http::Peer;

/// How long requests may take to end after the server was asked to stop. Kubernetes grants 30 s.
const DRAIN: Duration = Duration::from_secs(20);
/// The largest head of a request, in bytes; a token may have 16 KiB of them. (There may be 100 headers.)
const LARGEST_HEAD: usize = 32 * 1024;

/// What a connection may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long it may take to send the head of a request, and be idle before it.
    pub header_timeout: Duration,
    /// How many there may be; more wait to be accepted.
    pub max_connections: usize,
}

/// Serves until `stop`, then lets requests end.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: CancellationToken) {
    // Answers are small and whole; waiting for more to send only delays them.
    let mut listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "could not set TCP_NODELAY");
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(LARGEST_HEAD);
    let (slots, connections) = (
        Arc::new(Semaphore::new(limits.max_connections)),
        TaskTracker::new(),
    );
    let accept = async {
        loop {
            // It is never closed.
            let slot = slots.clone().acquire_owned().await.ok();
            let (stream, peer) = listener.accept().await;
            let serving = connection(http.clone(), stream, peer, router.clone(), stop.child_token());
            connections.spawn(async move {
                serving.await;
                drop(slot);
            });
        }
    };
    let _: Option<()> = stop.run_until_cancelled(accept).await;
    drop(listener);
    connections.close();
    if timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::warn!(
            seconds = DRAIN.as_secs(),
            "some requests did not end in time; dropping them"
        );
    }
}

async fn connection(
    http: http1::Builder,
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    stop: CancellationToken,
) {
    let answer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        router.clone().call(request)
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Callers that go away, are too slow or speak something else.
        tracing::debug!(%peer, %error, "a connection broke off");
    }
}
