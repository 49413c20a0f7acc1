//! What the tests speak with: an API on stores of its own corner, and its answers.

use std::time::Duration;

use commerce_api::{
    Config, Server,
    access::AccessConfig,
    config::{GroupCommit, SearchCache},
    seed::seed,
};
use commerce_core::{
    elasticsearch::ElasticsearchConfig,
    index::{self, IndexSpec},
    testing::{Database, shared},
    trace::TraceConfig,
};
use reqwest::{Method, header::HeaderMap};
use serde_json::Value;
use sqlx::PgPool;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How long a test waits for something that is to happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An API in this process.
pub struct Api {
    pub base: String,
    pub admin: String,
    client: reqwest::Client,
    server: Server,
}

/// What the API answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The path of the next page.
    pub fn next(&self) -> Option<String> {
        let link = self.header("link")?;
        let path = link
            .strip_prefix('<')
            .and_then(|rest| rest.strip_suffix(">; rel=\"next\""));
        Some(
            path.unwrap_or_else(|| panic!("the Link header is {link}"))
                .to_owned(),
        )
    }

    /// Fails unless this is a complete problem with this status.
    pub fn assert_problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["correlationId"].as_str(), self.header("x-correlation-id"));
        for member in ["type", "title", "detail"] {
            assert!(
                problem[member].as_str().is_some_and(|text| !text.is_empty()),
                "{member} is missing in {problem}"
            );
        }
        assert!(
            problem["type"]
                .as_str()
                .unwrap()
                .starts_with("tag:commerce.lab,2026:")
        );
        for hint in ["127.0.0.1", "select", "insert", "sqlx", "postgres:", "redis:"] {
            assert!(!self.body.contains(hint), "{hint} is told to callers: {problem}");
        }
        problem
    }
}

impl Api {
    /// Starts one.
    pub async fn start(config: Config) -> Self {
        let server = Server::start(config, CancellationToken::new()).await.unwrap();
        let base = format!("http://{}", server.http_address());
        let admin = format!("http://{}", server.admin_address());
        Self {
            base,
            admin,
            client: reqwest::Client::new(),
            server,
        }
    }

    /// Starts one with a database of its own that has the SKUs 1 to 8 with 100 pieces each. Elasticsearch is away.
    pub async fn with_catalogue() -> (Self, PgPool) {
        let database = catalogue().await;
        (Self::start(config(&database).await).await, database.pool())
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.base))
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    /// `POST /orders`
    pub async fn order(&self, body: &Value) -> Answer {
        self.order_with(body, &[]).await
    }

    pub async fn order_with(&self, body: &Value, headers: &[(&str, &str)]) -> Answer {
        let mut headers = headers.to_vec();
        headers.push(("content-type", "application/json"));
        self.send(Method::POST, "/orders", &headers, body.to_string())
            .await
    }

    /// The same, again and again while the API is too busy, as callers do.
    pub async fn order_in_a_crowd(&self, body: &Value) -> Answer {
        until("an order gets its turn", async || {
            Some(self.order(body).await).filter(|answer| answer.status != 503)
        })
        .await
    }

    /// An answer of the admin port.
    pub async fn ask_admin(&self, path: &str) -> Answer {
        answer(self.client.get(format!("{}{path}", self.admin))).await
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> u64 {
        let metrics = self.ask_admin("/metrics").await.body;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name} is not in {metrics}"))
            .parse()
            .unwrap()
    }

    /// Asks it to stop and waits until it has.
    pub async fn stop(self) {
        self.server.stop().await.unwrap();
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer {
        status,
        headers,
        body: response.text().await.unwrap(),
    }
}

/// The id of the order that this answer has placed.
pub fn placed(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["orderId"].as_str().unwrap().to_owned()
}

/// A database with the SKUs 1 to 8, 100 pieces each.
pub async fn catalogue() -> Database {
    let database = shared().database().await.unwrap();
    let mut connection = database.pool().acquire().await.unwrap();
    seed(&mut connection, 8, 100).await.unwrap();
    database
}

/// Free ports, this database, shared Redis, and an Elasticsearch that is away.
pub async fn config(database: &Database) -> Config {
    Config {
        http_address: ([127, 0, 0, 1], 0).into(),
        admin_address: ([127, 0, 0, 1], 0).into(),
        access: AccessConfig::default(),
        postgres: database.config(),
        elasticsearch: ElasticsearchConfig::open(
            format!("http://{}", closed_port().await).parse().unwrap(),
            "orders",
        ),
        redis: shared().redis_config().await.unwrap(),
        group_commit: GroupCommit::default(),
        idempotency_ttl: Duration::from_mins(1),
        search_cache: SearchCache {
            ttl: Duration::from_mins(1),
            // Redis is always asked whether an answer is current, so that no test has to wait.
            trust: Duration::ZERO,
            patience: PATIENCE,
            ..SearchCache::default()
        },
        traces: TraceConfig::default(),
        // On a busy machine Redis must not pass for one that is away.
        cache_budget: Duration::from_secs(5),
    }
}

/// An empty orders index of its own.
pub async fn orders_index() -> ElasticsearchConfig {
    let config = shared().elasticsearch_config().await.unwrap();
    let client = config.client(PATIENCE).unwrap();
    index::ensure(&client, &IndexSpec::new(&config.index))
        .await
        .unwrap();
    config
}

/// An address at which nobody listens.
pub async fn closed_port() -> std::net::SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// Waits until `condition` gives something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, condition: impl Fn() -> F) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(
            Instant::now() < end,
            "waited {} s in vain until {what}",
            PATIENCE.as_secs()
        );
        sleep(Duration::from_millis(20)).await;
    }
}

/// A number from PostgreSQL.
pub async fn number(pool: &PgPool, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(pool).await.unwrap()
}

/// How often Redis was asked with this command.
pub async fn calls(client: &redis::Client, command: &str) -> u64 {
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let statistics: String = redis::cmd("INFO")
        .arg("commandstats")
        .query_async(&mut connection)
        .await
        .unwrap();
    let start = format!("cmdstat_{command}:calls=");
    let line = statistics.lines().find_map(|line| line.strip_prefix(&start));
    line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}
