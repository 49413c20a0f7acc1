//! The orders API as a client outside the cluster sees it: through the ingress.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::{Method, RequestBuilder, Response, header::HeaderMap};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{cluster::Cluster, eventually::eventually};

/// A client of one pipeline's API.
#[derive(Debug, Clone)]
pub struct Orders {
    client: reqwest::Client,
    base: String,
    host: Option<String>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
    text: String,
}

/// An order to be placed: always the same one, however often it is sent.
#[derive(Debug, Clone)]
pub struct Order {
    pub user: String,
    pub key: String,
    pub correlation: String,
    pub sku: i64,
    pub quantity: i32,
}

impl Order {
    /// One piece of SKU 1, under a key of its own.
    #[must_use]
    pub fn of(user: &str) -> Self {
        let id = Uuid::new_v4();
        Self {
            user: user.to_owned(),
            key: format!("key-{id}"),
            correlation: format!("e2e-{id}"),
            sku: 1,
            quantity: 1,
        }
    }
}

/// A user that nobody has ordered for.
#[must_use]
pub fn new_user() -> String {
    format!("e2e-{}", Uuid::new_v4().simple())
}

impl Orders {
    /// The API behind the ingress, for the host name that the pipeline's Ingress has (none: any).
    pub fn through_ingress(cluster: &Cluster, host: Option<&str>) -> Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(10))
            .build()?;
        let base = format!("http://127.0.0.1:{}", cluster.environment.http_port);
        Ok(Self {
            client,
            base,
            host: host.map(str::to_owned),
        })
    }

    pub async fn get(&self, path: &str) -> Result<Answer> {
        let request = self.request(Method::GET, path);
        Answer::read(request.send().await)
            .await
            .with_context(|| format!("GET {path}"))
    }

    /// `POST /orders`, whatever comes of it.
    pub async fn post(&self, order: &Order) -> Result<Answer> {
        let body = json!({"skuId": order.sku, "quantity": order.quantity, "userId": order.user});
        let request = self.request(Method::POST, "/orders").json(&body);
        let request = request
            .header("idempotency-key", &order.key)
            .header("x-correlation-id", &order.correlation);
        Answer::read(request.send().await).await.context("POST /orders")
    }

    /// `POST /orders/{id}/cancel`, whatever comes of it.
    pub async fn cancel(&self, id: &str) -> Result<Answer> {
        let path = format!("/orders/{id}/cancel");
        let request = self.request(Method::POST, &path);
        Answer::read(request.send().await)
            .await
            .with_context(|| format!("POST {path}"))
    }

    /// Places an order and gives its id.
    pub async fn place(&self, order: &Order) -> Result<String> {
        self.post(order).await?.expect(200)?.order_id()
    }

    /// Places an order as a careful client does where stores and pods come and go: again with the same key, until it is taken.
    pub async fn place_persistently(&self, order: &Order) -> Result<String> {
        eventually("an order is taken", Duration::from_secs(30), async || {
            self.place(order).await
        })
        .await
    }

    /// All orders of a user that search finds, by id, whatever number of pages they fill.
    pub async fn found(&self, user: &str) -> Result<BTreeMap<String, Value>> {
        let mut found = BTreeMap::new();
        let mut next = Some(format!("/search/orders?userId={user}&limit=100"));
        while let Some(path) = next {
            let page = self.get(&path).await?.expect(200)?;
            let orders = page
                .body
                .as_array()
                .with_context(|| format!("GET {path} answered no array: {}", page.body))?;
            for order in orders {
                let id = order["orderId"]
                    .as_str()
                    .with_context(|| format!("orderId is no text in {order}"))?;
                ensure!(order["userId"] == user, "a search for {user} found {order}");
                ensure!(
                    found.insert(id.to_owned(), order.clone()).is_none(),
                    "{id} was found twice"
                );
            }
            next = page.next_page()?;
        }
        Ok(found)
    }

    /// Waits until search finds exactly these orders of a user.
    pub async fn finds(
        &self,
        user: &str,
        ids: &[String],
        bound: Duration,
    ) -> Result<BTreeMap<String, Value>> {
        eventually(
            &format!("{} orders of {user} are found", ids.len()),
            bound,
            async || {
                let found = self.found(user).await?;
                let missing: Vec<_> = ids.iter().filter(|id| !found.contains_key(*id)).collect();
                ensure!(
                    missing.is_empty(),
                    "{} of them are not found, first {:?}",
                    missing.len(),
                    missing.first()
                );
                ensure!(
                    found.len() == ids.len(),
                    "{} are found that were never placed",
                    found.len() - ids.len()
                );
                Ok(found)
            },
        )
        .await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.host {
            Some(host) => request.header("host", host),
            None => request,
        }
    }
}

impl Answer {
    async fn read(response: reqwest::Result<Response>) -> Result<Self> {
        let response = response?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Self {
            status,
            headers,
            body,
            text,
        })
    }

    /// The answer, if it has that status.
    pub fn expect(self, status: u16) -> Result<Self> {
        ensure!(
            self.status == status,
            "{status} was expected, the answer is {}: {}",
            self.status,
            self.text
        );
        Ok(self)
    }

    /// The id of the order that was answered.
    pub fn order_id(&self) -> Result<String> {
        match &self.body["orderId"] {
            Value::String(id) => Ok(id.clone()),
            Value::Number(id) => Ok(id.to_string()),
            _ => bail!("there is no orderId in the answer: {}", self.text),
        }
    }

    /// A header's text; empty where it is missing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Path and query of the next page, from `Link: <…>; rel="next"`.
    fn next_page(&self) -> Result<Option<String>> {
        let link = self.header("link");
        if !link.contains("rel=\"next\"") {
            return Ok(None);
        }
        let target = link
            .split_once('<')
            .and_then(|(_, rest)| rest.split_once('>'))
            .map(|(target, _)| target);
        let target = target.with_context(|| format!("the Link header is no link: {link}"))?;
        let path = target
            .find("/search/")
            .with_context(|| format!("the next page is not a search: {target}"))?;
        Ok(Some(target[path..].to_owned()))
    }
}
