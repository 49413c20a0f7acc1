//! What the services say of themselves: `/status` and `/readyz` on the admin port of their pods.
//!
//! Each pod is asked directly, by its address and within a bound, never through the API server. What does not answer is an
//! answer, too: it is kept with the pod's name, for whoever has to find out why.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use reqwest::Response;
use serde::{Deserialize, de::DeserializeOwned};

use super::{error::root, names::Component, readiness::Readiness};

/// Where every service serves its status.
pub const ADMIN_PORT: u16 = 9090;
/// How long a pod may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Longest answer that is read.
const LONGEST: usize = 1 << 20;

/// What a relay does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayState {
    Active,
    Standby,
    Waiting,
}

/// `/status` of a relay. Only the active one knows the numbers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayStatus {
    pub state: RelayState,
    /// Why nothing is published until somebody has decided something.
    pub blocked: Option<String>,
    pub backlog: Option<u64>,
    pub oldest_unpublished_seconds: Option<f64>,
    pub parked: Option<u64>,
}

/// `/status` of an indexer, about the partitions that it has.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexerStatus {
    pub partitions: Vec<PartitionLag>,
    pub freshness: Freshness,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionLag {
    pub topic: String,
    pub partition: i32,
    pub lag: u64,
    /// Absent in images from before it was told.
    pub committed: Option<i64>,
}

/// How soon orders could be found, in the last minutes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Freshness {
    pub orders: u64,
    pub p50_seconds: Option<f64>,
    pub p99_seconds: Option<f64>,
}

/// What the reconciler asks of pods. Errors are told to people, so they are text.
#[async_trait]
pub trait Services: fmt::Debug + Send + Sync {
    async fn relay(&self, pod: IpAddr) -> Result<RelayStatus, String>;
    async fn indexer(&self, pod: IpAddr) -> Result<IndexerStatus, String>;
    /// Of any service.
    async fn readiness(&self, pod: IpAddr) -> Result<Readiness, String>;
}

/// The pods over the network.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
    port: u16,
}

impl Http {
    pub fn new(port: u16) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            // Pods are asked seldom and may be gone by then.
            .pool_max_idle_per_host(0)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()?;
        Ok(Self { client, port })
    }

    async fn ask(&self, pod: IpAddr, path: &str) -> reqwest::Result<Response> {
        let url = format!("http://{}/{path}", SocketAddr::new(pod, self.port));
        self.client.get(&url).send().await
    }

    async fn status<T: DeserializeOwned>(&self, pod: IpAddr) -> Result<T, String> {
        let answer = self.ask(pod, "status").await.and_then(Response::error_for_status);
        read(answer.map_err(|error| describe(&error))?).await
    }
}

async fn read<T: DeserializeOwned>(mut answer: Response) -> Result<T, String> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| describe(&error))? {
        body.extend_from_slice(&part);
        if body.len() > LONGEST {
            return Err("its answer is too long".to_owned());
        }
    }
    serde_json::from_slice(&body).map_err(|error| format!("its answer can't be read: {error}"))
}

#[async_trait]
impl Services for Http {
    async fn relay(&self, pod: IpAddr) -> Result<RelayStatus, String> {
        self.status(pod).await
    }

    async fn indexer(&self, pod: IpAddr) -> Result<IndexerStatus, String> {
        self.status(pod).await
    }

    async fn readiness(&self, pod: IpAddr) -> Result<Readiness, String> {
        // The status says no more than the body.
        read(self.ask(pod, "readyz").await.map_err(|error| describe(&error))?).await
    }
}

fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    match error.status() {
        Some(status) => format!("it answered {status}"),
        None => root(error),
    }
}

/// What one pod said.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    pub pod: String,
    pub said: Result<T, String>,
}

/// What all running pods said.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub relays: Vec<Answer<RelayStatus>>,
    pub indexers: Vec<Answer<IndexerStatus>>,
}

/// Asks all running pods at the same time.
pub async fn ask(services: &dyn Services, pods: &[Pod]) -> Seen {
    let relays = running(pods, Component::Relay).map(|(pod, address)| async move {
        let said = services.relay(address).await;
        Answer { pod, said }
    });
    let indexers = running(pods, Component::Indexer).map(|(pod, address)| async move {
        let said = services.indexer(address).await;
        Answer { pod, said }
    });
    let (relays, indexers) = futures::join!(
        futures::future::join_all(relays),
        futures::future::join_all(indexers)
    );
    Seen { relays, indexers }
}

/// Name and address of the pods of a component that run and are to go on running.
pub(super) fn running(pods: &[Pod], component: Component) -> impl Iterator<Item = (String, IpAddr)> {
    pods.iter()
        .filter(move |pod| {
            pod.labels()
                .get("app.kubernetes.io/component")
                .is_some_and(|name| name == component.as_str())
        })
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter_map(|pod| {
            let status = pod.status.as_ref()?;
            if status.phase.as_deref() != Some("Running") {
                return None;
            }
            Some((pod.name_any(), status.pod_ip.as_ref()?.parse().ok()?))
        })
}
