//! The stores inside the cluster, asked directly: what really is in PostgreSQL, Kafka and Elasticsearch.
//!
//! Each question goes through a `kubectl port-forward` or `exec` of its own, so that it works after any restart of a pod.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
    time::timeout,
};

use crate::cluster::{Cluster, PODS, SECRETS, SERVICES, STATEFUL_SETS};

/// The namespace in which `make up` installs the stores.
pub const NAMESPACE: &str = "shop";
const FORWARD_BOUND: Duration = Duration::from_secs(20);

/// A port of 127.0.0.1 that leads to a Service, for as long as this value lives.
#[derive(Debug)]
struct Forward {
    port: u16,
    _kubectl: Child,
}

/// A connection to one database of the cluster's PostgreSQL.
#[derive(Debug)]
pub struct Database {
    pub connection: PgConnection,
    _forward: Forward,
}

/// The value of one key of a Secret of the stores that `make up` installs.
pub async fn secret(cluster: &Cluster, name: &str, key: &str) -> Result<String> {
    secret_of(cluster, NAMESPACE, name, key).await
}

/// The value of one key of a Secret.
pub async fn secret_of(cluster: &Cluster, namespace: &str, name: &str, key: &str) -> Result<String> {
    let secret = cluster.get(SECRETS, namespace, name).await?;
    let value = secret["data"][key]
        .as_str()
        .with_context(|| format!("the Secret {name} has no key {key}"))?;
    String::from_utf8(STANDARD.decode(value)?)
        .with_context(|| format!("the key {key} of the Secret {name} is no text"))
}

/// Connects to a database; without a name, to the one of `shop`.
pub async fn postgres(cluster: &Cluster, database: Option<&str>) -> Result<Database> {
    let forward = Forward::to(cluster, "stores-postgres", 5432).await?;
    let uri = secret(cluster, "stores-postgres", "uri").await?;
    // The value is a secret, so the message does not repeat it.
    let options: PgConnectOptions = uri
        .parse()
        .map_err(|_| anyhow!("the uri of stores-postgres is no PostgreSQL URI"))?;
    let options = options.host("127.0.0.1").port(forward.port);
    let options = match database {
        Some(name) => options.database(name),
        None => options,
    };
    let connection = PgConnection::connect_with(&options)
        .await
        .context("connecting to the cluster's PostgreSQL")?;
    Ok(Database {
        connection,
        _forward: forward,
    })
}

/// Removes a database and whoever is connected to it.
pub async fn drop_database(cluster: &Cluster, name: &str) -> Result<()> {
    let mut shop = postgres(cluster, None).await?;
    let statement = format!("drop database if exists \"{name}\" with (force)");
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .execute(&mut shop.connection)
        .await?;
    Ok(())
}

/// The topics of the cluster's Kafka. A client outside would be led on to the address that the broker advertises, which
/// only the cluster knows: so Kafka's own tool asks, in its pod.
pub async fn kafka_topics(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let tool = "/opt/kafka/bin/kafka-topics.sh";
    let asked = ["--bootstrap-server", "localhost:9092", "--list"];
    let mut arguments = vec!["exec", "-n", NAMESPACE, "statefulset/stores-kafka", "--", tool];
    arguments.extend(asked);
    let printed = cluster.environment.kubectl(&arguments).await?;
    Ok(printed.lines().map(str::to_owned).collect())
}

/// What Kafka's own tool for configurations answers, asked in Kafka's pod.
pub async fn kafka_configs(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let tool = "/opt/kafka/bin/kafka-configs.sh";
    let pod = ["exec", "-n", NAMESPACE, "statefulset/stores-kafka", "--", tool];
    let all = [&pod[..], &["--bootstrap-server", "localhost:9092"], arguments].concat();
    cluster.environment.kubectl(&all).await
}

/// What is set on a topic itself, as Kafka's tool prints it.
pub async fn kafka_topic_config(cluster: &Cluster, topic: &str) -> Result<String> {
    let describe = ["--describe", "--entity-type", "topics", "--entity-name", topic];
    kafka_configs(cluster, &describe).await
}

/// What Elasticsearch answers to `GET <path>`; `None` for 404.
pub async fn elasticsearch(cluster: &Cluster, path: &str) -> Result<Option<Value>> {
    let answer = ask_elasticsearch(cluster, Method::GET, path, None).await?;
    if answer.status() == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    Ok(Some(answer.error_for_status()?.json().await?))
}

/// Changes settings of an index, or of those behind an alias.
pub async fn change_index(cluster: &Cluster, index: &str, settings: &Value) -> Result<()> {
    let path = format!("/{index}/_settings");
    let answer = ask_elasticsearch(cluster, Method::PUT, &path, Some(settings)).await?;
    answer.error_for_status()?;
    Ok(())
}

async fn ask_elasticsearch(
    cluster: &Cluster,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Response> {
    let forward = Forward::to(cluster, "stores-elasticsearch", 9200).await?;
    let password = secret(cluster, "stores-elasticsearch", "elastic").await?;
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(10))
        .build()?;
    let asked = format!("asking Elasticsearch for {method} {path}");
    let mut request = client
        .request(method, format!("http://127.0.0.1:{}{path}", forward.port))
        .basic_auth("elastic", Some(password));
    if let Some(body) = body {
        request = request.json(body);
    }
    request.send().await.context(asked)
}

/// How many replicas a store runs.
pub async fn scale(cluster: &Cluster, store: &str, replicas: u32) -> Result<()> {
    let change = serde_json::json!({"spec": {"replicas": replicas}});
    cluster
        .change(STATEFUL_SETS, NAMESPACE, store, &change)
        .await
        .map(drop)
}

/// The pods behind a store's Service.
pub async fn pods(cluster: &Cluster, store: &str) -> Result<Vec<Value>> {
    let service = cluster.get(SERVICES, NAMESPACE, store).await?;
    let selector = service.pointer("/spec/selector").and_then(Value::as_object);
    let selector = selector.with_context(|| format!("the Service {store} selects nothing"))?;
    let labels: Vec<String> = selector
        .iter()
        .map(|(label, value)| format!("{label}={}", value.as_str().unwrap_or_default()))
        .collect();
    cluster.list(PODS, NAMESPACE, &labels.join(",")).await
}

/// Whether a pod is ready.
#[must_use]
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.and_then(|conditions| conditions.iter().find(|c| c["type"] == "Ready"));
    ready.is_some_and(|condition| condition["status"] == "True")
}

impl Forward {
    async fn to(cluster: &Cluster, service: &str, port: u16) -> Result<Self> {
        let (service, port) = (format!("service/{service}"), format!(":{port}"));
        let arguments = [
            "port-forward",
            "-n",
            NAMESPACE,
            "--address=127.0.0.1",
            &service,
            &port,
        ];
        let mut command = cluster.environment.command("kubectl", &arguments);
        let mut kubectl = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting kubectl port-forward to {service}"))?;
        let mut lines = BufReader::new(kubectl.stdout.take().context("kubectl has no output")?).lines();
        // "Forwarding from 127.0.0.1:34567 -> 9200"
        let first = timeout(FORWARD_BOUND, lines.next_line()).await;
        let first = first.with_context(|| format!("kubectl port-forward to {service} said nothing"))??;
        let Some(first) = first else {
            let output = kubectl.wait_with_output().await?;
            return Err(anyhow!(
                "kubectl port-forward to {service}: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        };
        let local = first
            .split_once("127.0.0.1:")
            .and_then(|(_, rest)| rest.split_whitespace().next());
        let local = local.and_then(|port| port.parse().ok());
        let local = local.with_context(|| format!("kubectl port-forward to {service} said {first:?}"))?;
        // Its output must stay open: kubectl writes a line for each connection.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self {
            port: local,
            _kubectl: kubectl,
        })
    }
}
