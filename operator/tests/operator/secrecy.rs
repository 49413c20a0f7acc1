//! What is in a Secret stays there: nothing of it is in what the operator writes into the cluster or says in its log.
//!
//! Every value of every Secret is marked, the operator goes through its work and its troubles, and everything that it sent and
//! said is searched for the marks.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
};

use commerce_operator::reconcile::stores::Remote;
use http::Request;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Client, ResourceExt as _,
    client::Body,
    runtime::events::{Recorder, Reporter},
};
use serde_json::{Value, json};
use tracing::subscriber::DefaultGuard;

use crate::{
    cluster::PIPELINE,
    fixtures::{CA, CERTIFICATE, KEY, all_secrets, full, secret, stored},
    world::World,
};

/// In each login and password.
const MARK: &str = "hunter";

/// Everything that was sent to the API server, and every line of the log.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Said {
    fn say(&self, text: &str) {
        let mut said = self.0.lock().unwrap();
        said.extend_from_slice(text.as_bytes());
        said.push(b'\n');
    }

    /// The log of this thread, down to the last detail.
    fn listen(&self) -> DefaultGuard {
        let said = self.clone();
        let log = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || said.clone());
        tracing::subscriber::set_default(log.finish())
    }

    /// What the operator sends is written down before it is answered.
    fn overhear(&self, world: &mut World) {
        let (said, inner) = (self.clone(), world.context.client.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (said, inner) = (said.clone(), inner.clone());
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect_bytes().await.unwrap();
                let text = String::from_utf8_lossy(&bytes);
                said.say(&format!(
                    "{} {} {:?} {text}",
                    parts.method, parts.uri, parts.headers
                ));
                let request = Request::from_parts(parts, Body::from(bytes));
                Ok::<_, Infallible>(inner.send(request).await.unwrap())
            }
        });
        let client = Client::new(service, "default");
        let reporter = Reporter {
            controller: "commerce-operator".into(),
            instance: None,
        };
        world.context.recorder = Recorder::new(client.clone(), reporter);
        world.context.client = client;
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// `done` tells that there was something to hear.
    fn keeps_secrets(&self, done: &[&str]) {
        let text = self.text();
        for expected in done {
            assert!(text.contains(expected), "nothing was heard of {expected}");
        }
        let mut marks = vec![MARK, "PRIVATE KEY", "BEGIN CERTIFICATE"];
        marks.extend([CA, CERTIFICATE, KEY].map(|pem| pem.lines().nth(2).unwrap()));
        for mark in marks {
            let around = text.lines().find(|line| line.contains(mark));
            assert_eq!(around, None, "{mark} was told");
        }
    }
}

/// The Secrets of the fixtures, in which every login is marked, too.
fn marked() -> Vec<Secret> {
    let mut all = all_secrets();
    for one in &mut all {
        for value in one.data.as_mut().unwrap().values_mut() {
            let text = String::from_utf8(value.0.clone()).unwrap();
            *value = ByteString(text.replace("//app:", "//hunter-app:").into_bytes());
        }
    }
    all
}

fn put(world: &World, secrets: Vec<Secret>) {
    for secret in secrets {
        let path = format!("/api/v1/namespaces/store/secrets/{}", secret.name_any());
        world.cluster.put(&path, serde_json::to_value(secret).unwrap());
    }
}

fn apply(world: &World, changes: &[(&str, Value)]) {
    world.cluster.edit(PIPELINE, |pipeline| {
        let generation = pipeline["metadata"]["generation"].as_i64().unwrap();
        pipeline["spec"] = stored(&full(), changes)["spec"].clone();
        pipeline["metadata"]["generation"] = json!(generation + 1);
    });
}

/// A pipeline with every field set, and every Secret marked.
fn world(said: &Said, changes: &[(&str, Value)]) -> World {
    let mut world = World::with(&[]);
    put(&world, marked());
    apply(&world, changes);
    said.overhear(&mut world);
    world
}

#[tokio::test]
async fn a_life_without_trouble() {
    let said = Said::default();
    let _log = said.listen();
    let world = world(&said, &[]);
    world.pass().await.unwrap();
    world.cluster.finish_jobs("Complete");
    for _ in 0..3 {
        world.pass().await.unwrap();
        world.cluster.start_pods();
    }
    world.pass().await.unwrap();
    assert_eq!(world.reason("Ready"), "True Running");

    let new = [("uri", "postgresql://hunter-new:hunter-newer@pg-rw.store:5432/app")];
    put(&world, vec![secret("pg-app", &new)]);
    for _ in 0..2 {
        world.pass().await.unwrap();
        world.cluster.finish_jobs("Complete");
        world.cluster.start_pods();
    }
    world.cluster.edit(PIPELINE, |pipeline| {
        pipeline["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    world.pass().await.unwrap();
    assert!(world.cluster.get(PIPELINE).is_none(), "it is not gone");
    said.keeps_secrets(&[
        "PATCH /apis/apps/v1/namespaces/store/deployments/shop-api",
        "PATCH /apis/batch/v1/namespaces/store/jobs/shop-migrate-",
        "PATCH /apis/commerce.lab/v1alpha1/namespaces/store/commercepipelines/shop/status",
        "POST /apis/events.k8s.io/v1/namespaces/store/events",
        "commerce_operator::reconcile::apply: applied",
    ]);
}

/// What is wrong with a Secret is told without what is in it.
#[tokio::test]
async fn secrets_that_are_wrong() {
    let uri = |uri: &'static str| vec![("uri", uri)];
    for (name, data, told) in [
        (
            "pg-app",
            uri("mysql://hunter:hunter@pg/app"),
            "the key uri of the Secret pg-app does not hold",
        ),
        (
            "pg-app",
            uri("postgresql://hunter:hunter@pg:hunter/app"),
            "the key uri of the Secret pg-app does not hold",
        ),
        ("pg-app", vec![("dsn", "hunter")], "(it has: dsn)"),
        (
            "pg-ca",
            vec![("ca.crt", "hunter")],
            "the certificate of an authority in PEM",
        ),
        (
            "pg-client",
            vec![("tls.crt", CERTIFICATE), ("tls.key", "hunter")],
            "a private key in PEM",
        ),
        (
            "pg-client",
            vec![("tls.crt", KEY), ("tls.key", KEY)],
            "a certificate in PEM",
        ),
        (
            "kafka-user",
            vec![("user.crt", CA), ("user.key", KEY), ("password", MARK)],
            "the private key of the certificate beside it",
        ),
        (
            "search-es-elastic-user",
            vec![("elastic", " ")],
            "is empty or not text",
        ),
        ("cache-redis", vec![("password", "hunter")], "(it has: password)"),
    ] {
        let said = Said::default();
        let _log = said.listen();
        let world = world(&said, &[]);
        put(&world, vec![secret(name, &data)]);
        world.pass().await.unwrap_err();
        said.keeps_secrets(&[told, "/commercepipelines/shop/status"]);
    }
}

/// The real clients of the stores, and nobody there: each says what it tried, and not as whom.
#[tokio::test]
async fn stores_that_are_away() {
    let said = Said::default();
    let _log = said.listen();
    let mut world = world(
        &said,
        &[
            ("kafka/bootstrapServers", json!("127.0.0.1:1")),
            ("elasticsearch/url", json!("https://127.0.0.1:1")),
            ("redis/host", json!("127.0.0.1")),
            ("redis/port", json!(1)),
        ],
    );
    let uri = "postgresql://hunter:hunter@127.0.0.1:1/app";
    put(&world, vec![secret("pg-app", &[("uri", uri)])]);
    world.context.stores = Arc::new(Remote);
    world.pass().await.unwrap_err();
    assert_eq!(world.reason("StoresReachable"), "False StoresUnreachable");
    said.keeps_secrets(&["PostgreSQL (", "Kafka (", "Elasticsearch (", "Redis ("]);
}
