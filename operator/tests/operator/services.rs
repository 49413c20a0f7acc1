//! Services that say what a test has them say; and the client that asks real ones, over a real socket.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Mutex,
};

use async_trait::async_trait;
use commerce_operator::reconcile::{
    readiness::Readiness,
    services::{Freshness, Http, IndexerStatus, PartitionLag, RelayState, RelayStatus, Services},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::faults::Faults;

/// All relays say the same, and all indexers.
#[derive(Debug)]
pub struct FakeServices {
    pub relay: Mutex<Result<RelayStatus, String>>,
    pub indexer: Mutex<Result<IndexerStatus, String>>,
    pub readiness: Mutex<Result<Readiness, String>>,
    faults: Faults,
}

impl FakeServices {
    /// Orders flow.
    pub fn new(faults: Faults) -> Self {
        Self {
            relay: Mutex::new(Ok(active(0, 0.0))),
            indexer: Mutex::new(Ok(reading(0, 0))),
            readiness: Mutex::new(Ok(Readiness::default())),
            faults,
        }
    }

    /// Other services that say the same.
    pub fn copy(&self, faults: Faults) -> Self {
        Self {
            relay: Mutex::new(self.relay.lock().unwrap().clone()),
            indexer: Mutex::new(self.indexer.lock().unwrap().clone()),
            readiness: Mutex::new(self.readiness.lock().unwrap().clone()),
            faults,
        }
    }

    async fn ask<T: Clone>(&self, said: &Mutex<Result<T, String>>) -> Result<T, String> {
        let answer = self.faults.call(false, || said.lock().unwrap().clone()).await;
        answer.unwrap_or_else(|| Err("no answer within 2 s".to_owned()))
    }
}

/// An active relay with that many events to publish, the oldest of that age.
pub fn active(backlog: u64, oldest: f64) -> RelayStatus {
    RelayStatus {
        backlog: Some(backlog),
        oldest_unpublished_seconds: Some(oldest),
        parked: Some(0),
        ..idle(RelayState::Active)
    }
}

pub fn idle(state: RelayState) -> RelayStatus {
    RelayStatus {
        state,
        blocked: None,
        backlog: None,
        oldest_unpublished_seconds: None,
        parked: None,
    }
}

/// An indexer of one partition that has come so far, with so much before it.
pub fn reading(committed: i64, lag: u64) -> IndexerStatus {
    IndexerStatus {
        partitions: vec![PartitionLag {
            topic: "order.created".into(),
            partition: 0,
            lag,
            committed: Some(committed),
        }],
        freshness: Freshness::default(),
    }
}

#[async_trait]
impl Services for FakeServices {
    async fn relay(&self, _: IpAddr) -> Result<RelayStatus, String> {
        self.ask(&self.relay).await
    }

    async fn indexer(&self, _: IpAddr) -> Result<IndexerStatus, String> {
        self.ask(&self.indexer).await
    }

    async fn readiness(&self, _: IpAddr) -> Result<Readiness, String> {
        self.ask(&self.readiness).await
    }
}

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A pod that gives one answer to whoever asks.
async fn pod(answer: &'static str) -> Http {
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let read = socket.read(&mut request).await.unwrap_or(0);
            let request = &request[..read];
            assert!(request.starts_with(b"GET /status ") || request.starts_with(b"GET /readyz "));
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    Http::new(port).unwrap()
}

#[tokio::test]
async fn what_a_service_says_is_read_and_what_it_adds_is_left_alone() {
    let services = pod("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"state\":\"active\",\"backlog\":7,\"oldestUnpublishedSeconds\":2.5,\"parked\":1,\"inFlight\":3,\"sent\":9}").await;
    let expected = RelayStatus {
        parked: Some(1),
        ..active(7, 2.5)
    };
    assert_eq!(services.relay(LOCAL).await, Ok(expected));
    let services = pod("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"lag\":4,\"partitions\":[{\"topic\":\"t\",\"partition\":1,\"lag\":4}],\"freshness\":{\"windowSeconds\":300,\"orders\":0,\"p50Seconds\":null,\"p99Seconds\":null}}").await;
    let said = services.indexer(LOCAL).await.unwrap();
    assert_eq!((said.partitions[0].lag, said.partitions[0].committed), (4, None));
    assert_eq!(said.freshness, Freshness::default());
}

/// The body is the service's own, whose admin port answers 503 then.
#[tokio::test]
async fn the_checks_of_a_pod_that_is_not_ready_are_read() {
    let services = pod("HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\n{\"checks\":{\"kafka\":{\"ready\":true},\"postgres\":{\"ready\":false,\"message\":\"no such role\"}},\"ready\":false}").await;
    let said = services.readiness(LOCAL).await.unwrap();
    assert!(!said.ready && said.checks["kafka"].ready);
    assert_eq!(said.checks["postgres"].message.as_deref(), Some("no such role"));
}

#[tokio::test]
async fn a_service_that_can_not_be_asked_says_why() {
    for (answer, problem) in [
        (
            "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\n",
            "it answered 503",
        ),
        (
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n<html>",
            "its answer can't be read",
        ),
    ] {
        let said = pod(answer).await.relay(LOCAL).await.unwrap_err();
        assert!(said.contains(problem), "{said}");
    }
    let free = TcpListener::bind((LOCAL, 0))
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let said = Http::new(free).unwrap().relay(LOCAL).await.unwrap_err();
    assert!(said.to_lowercase().contains("refused"), "{said}");
}
