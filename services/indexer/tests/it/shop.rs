//! Orders in PostgreSQL beside the stores of a [`World`], and the tools on all of them.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result};
use commerce_core::{
    elasticsearch::body,
    event::{EventType, OrderEvent},
    testing::{Database, shared},
};
use elasticsearch::{CountParts, indices::IndicesRefreshParts};
use serde_json::{Value, json};
use sqlx::{PgPool, Row as _, postgres::PgRow};
use tokio::process::Command;

use crate::world::World;

pub(crate) struct Shop {
    pub(crate) world: World,
    database: Database,
    pub(crate) pool: PgPool,
}

/// What a tool has printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Shop {
    pub(crate) async fn new() -> Result<Self> {
        Self::of(World::new().await?).await
    }

    pub(crate) async fn of(world: World) -> Result<Self> {
        let database = shared().database().await?;
        let pool = database.pool();
        sqlx::query("insert into products (name) values ('things')")
            .execute(&pool)
            .await?;
        sqlx::query("insert into skus (product_id, name, stock) select product_id, 'thing', 1 from products")
            .execute(&pool)
            .await?;
        Ok(Self {
            world,
            database,
            pool,
        })
    }

    /// Places so many orders, an hour ago; returns their events.
    pub(crate) async fn place(&self, count: i64) -> Result<Vec<OrderEvent>> {
        let place = sqlx::query(
            "insert into orders (user_id, sku_id, quantity, status, request_hash, correlation_id, created_at, updated_at)
             select 'user|' || n % 100, sku_id, n % 10 + 1, 'CREATED', ''::bytea, 'correlation-' || n,
                    now() - interval '1 hour' + n * interval '1.000001 ms', now() - interval '1 hour'
               from generate_series(1, $1) n, skus
              order by n
             returning *",
        );
        Ok(place
            .bind(count)
            .try_map(|row: PgRow| event(&row))
            .fetch_all(&self.pool)
            .await?)
    }

    /// Cancels orders, now; returns their events.
    pub(crate) async fn cancel(&self, ids: &[i64]) -> Result<Vec<OrderEvent>> {
        let cancel = sqlx::query(
            "update orders set status = 'CANCELLED', version = version + 1, updated_at = now()
              where order_id = any($1)
             returning *",
        );
        Ok(cancel
            .bind(ids)
            .try_map(|row: PgRow| event(&row))
            .fetch_all(&self.pool)
            .await?)
    }

    /// Places orders and indexes them; every third is cancelled.
    pub(crate) async fn filled(&self, count: i64) -> Result<()> {
        let mut events = self.place(count).await?;
        let third: Vec<_> = (3..=count).step_by(3).collect();
        events.extend(self.cancel(&third).await?);
        self.index(&events).await
    }

    /// Lets an indexer index events.
    pub(crate) async fn index(&self, events: &[OrderEvent]) -> Result<()> {
        self.world.publish(events).await?;
        let indexer = self.world.start().await?;
        self.world.wait_until_committed().await?;
        indexer.stop().await
    }

    /// The environment of the tools, without that of the indexer.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = self.world.environment();
        environment.retain(|(name, _)| !["ADMIN_ADDR", "REDIS_URL", "REDIS_KEY_PREFIX"].contains(name));
        environment.push(("DATABASE_URL", self.database.url().to_owned()));
        environment
    }

    /// Runs the indexer's program with these arguments until it ends.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<Printed> {
        run(arguments, self.environment()).await
    }

    /// The differences that `verify` finds, by order id and kind.
    pub(crate) async fn verify(&self, arguments: &[&str]) -> Result<(Printed, Vec<(String, String)>)> {
        let arguments = [&["verify", "--grace", "300ms", "-o", "json"], arguments].concat();
        let printed = self.run(&arguments).await?;
        let report: Value = serde_json::from_str(&printed.out).with_context(|| format!("{printed:?}"))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let differences = report["differences"].as_array().context("differences")?;
        let mut found: Vec<_> = differences
            .iter()
            .map(|difference| (text(&difference["orderId"]), text(&difference["kind"])))
            .collect();
        found.sort();
        Ok((printed, found))
    }

    /// How many documents are in an index.
    pub(crate) async fn count(&self, index: &str) -> Result<u64> {
        let (client, index) = (&self.world.client, [index]);
        let indices = client.indices();
        let refresh = indices.refresh(IndicesRefreshParts::Index(&index));
        body("refresh", refresh.send().await).await?;
        let count = client.count(CountParts::Index(&index));
        let answer = body("count", count.send().await).await?;
        answer["count"].as_u64().context("a count")
    }

    /// Writes a document past the indexer; `query` is of the request.
    pub(crate) async fn write(&self, id: &str, document: &Value, query: &str) -> Result<()> {
        self.ask("PUT", &format!("_doc/{id}?{query}"), Some(document))
            .await
    }

    /// Asks Elasticsearch about the index.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<()> {
        let url = self
            .world
            .elasticsearch
            .url
            .join(&format!("{}/{path}", self.world.elasticsearch.index))?;
        let request = reqwest::Client::new().request(method.parse()?, url);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        request.send().await?.error_for_status()?;
        Ok(())
    }
}

pub(crate) fn command(arguments: &[&str], environment: Vec<(&'static str, String)>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_indexer"));
    command
        .args(arguments)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

pub(crate) async fn run(arguments: &[&str], environment: Vec<(&'static str, String)>) -> Result<Printed> {
    let output = command(arguments, environment).output();
    let output = tokio::time::timeout(Duration::from_mins(2), output).await??;
    Ok(Printed {
        code: output.status.code(),
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
    })
}

fn event(row: &PgRow) -> Result<OrderEvent, sqlx::Error> {
    let status: String = row.try_get("status")?;
    let event_type = if status == "CREATED" {
        EventType::OrderCreated
    } else {
        EventType::OrderCancelled
    };
    let value = json!({
        "orderId": row.try_get::<i64, _>("order_id")?.to_string(),
        "skuId": row.try_get::<i64, _>("sku_id")?,
        "quantity": row.try_get::<i32, _>("quantity")?,
        "userId": row.try_get::<String, _>("user_id")?,
        "status": status,
        "version": row.try_get::<i64, _>("version")?,
        "correlationId": row.try_get::<String, _>("correlation_id")?,
        "eventType": event_type,
        "createdAt": row.try_get::<chrono::DateTime<chrono::Utc>, _>("created_at")?,
    });
    serde_json::from_value(value).map_err(|error| sqlx::Error::Decode(error.into()))
}
