//! Keeps the readiness checks true: is each store there, and is the schema new enough?

use std::time::Duration;

use commerce_core::{
    admin::{Gate, Need, Readiness, chain},
    index, postgres,
    redis::RedisConfig,
};
use elasticsearch::Elasticsearch;
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::state::Shared;

const INTERVAL: Duration = Duration::from_secs(2);
/// A check that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Checks one store again and again.
async fn watch<F>(gate: Gate, check: impl Fn() -> F)
where
    F: Future<Output = Result<(), String>>,
{
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let result = timeout(TIMEOUT, check()).await;
        gate.report(&result.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs()))));
    }
}

/// The checks. Only PostgreSQL is needed to start: without it no order can be placed, while the others are missed by
/// searches at most.
#[derive(Debug)]
pub struct Monitor {
    postgres: Gate,
    elasticsearch: Gate,
    redis: Gate,
}

impl Monitor {
    /// Adds the checks.
    pub fn new(readiness: &Readiness) -> Self {
        Self {
            postgres: readiness.gate("postgresql", Need::ToStart),
            elasticsearch: readiness.gate("elasticsearch", Need::Never),
            redis: readiness.gate("redis", Need::Never),
        }
    }

    /// Watches the stores until `stop`.
    pub async fn run(
        self,
        app: Shared,
        client: Elasticsearch,
        alias: String,
        redis: RedisConfig,
        stop: CancellationToken,
    ) {
        let watches = async {
            tokio::join!(
                watch(self.postgres, || check_postgres(&app)),
                watch(self.elasticsearch, || check_index(&client, &alias)),
                watch(self.redis, || check_redis(&redis)),
            );
        };
        stop.run_until_cancelled(Box::pin(watches)).await;
    }
}

async fn check_postgres(app: &Shared) -> Result<(), String> {
    let found = match schema(&app.pool).await {
        Err(sqlx::Error::PoolTimedOut) => return Err(why_no_connection(&app.pool).await),
        other => other.map_err(|error| error.to_string())?,
    };
    let needed = postgres::latest_version();
    match found {
        Some((version, epoch)) if version >= needed => {
            app.replays.set_epoch(epoch);
            Ok(())
        }
        found => {
            let version = found.map_or(0, |(version, _)| version);
            Err(format!(
                "the schema has version {version}, this program needs {needed}: run `api migrate`"
            ))
        }
    }
}

/// The schema's version and when it was created.
async fn schema(pool: &PgPool) -> Result<Option<(i64, String)>, sqlx::Error> {
    let version = postgres::schema_version(pool).await?;
    if version == 0 {
        return Ok(None);
    }
    let epoch = "select extract(epoch from min(installed_on))::text from _sqlx_migrations";
    Ok(Some((version, sqlx::query_scalar(epoch).fetch_one(pool).await?)))
}

/// The pool only says that it has waited in vain.
async fn why_no_connection(pool: &PgPool) -> String {
    match PgConnection::connect_with(&pool.connect_options()).await {
        Err(error) => error.to_string(),
        Ok(_) => "it is there, but all connections of the pool are in use".to_owned(),
    }
}

async fn check_index(client: &Elasticsearch, alias: &str) -> Result<(), String> {
    match index::active_index(client, alias).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(format!("there is no alias {alias} yet")),
        Err(error) => Err(chain(&error)),
    }
}

async fn check_redis(redis: &RedisConfig) -> Result<(), String> {
    let ping = async {
        let mut connection = redis.client.get_multiplexed_async_connection().await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await
    };
    ping.await.map_err(|error| error.to_string())
}
