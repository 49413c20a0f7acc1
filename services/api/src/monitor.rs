//! Keeps the readiness checks true: is each store there, and is the schema new enough?

use std::time::Duration;

use commerce_core::{
    admin::{Gate, Need, Readiness},
    index, postgres,
    redis::RedisConfig,
};
use elasticsearch::Elasticsearch;
use sqlx::PgPool;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::state::Shared;

const INTERVAL: Duration = Duration::from_secs(2);
/// A check that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Checks one store again and again until `stop`.
async fn watch<F>(gate: Gate, stop: CancellationToken, check: impl Fn() -> F)
where
    F: Future<Output = Result<(), String>>,
{
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
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
        tokio::join!(
            watch(self.postgres, stop.clone(), || check_postgres(&app)),
            watch(self.elasticsearch, stop.clone(), || check_index(&client, &alias)),
            watch(self.redis, stop.clone(), || check_redis(&redis)),
        );
    }
}

async fn check_postgres(app: &Shared) -> Result<(), String> {
    let (found, needed) = (version(&app.pool).await?, postgres::latest_version());
    if found < needed {
        return Err(format!(
            "the schema has version {found}, this program needs {needed}: run `api migrate`"
        ));
    }
    let epoch = "select extract(epoch from min(installed_on))::text from _sqlx_migrations";
    let epoch: Option<String> = sqlx::query_scalar(epoch)
        .fetch_one(&app.pool)
        .await
        .map_err(|error| error.to_string())?;
    if let Some(epoch) = epoch {
        app.replays.set_epoch(epoch);
    }
    Ok(())
}

async fn version(pool: &PgPool) -> Result<i64, String> {
    postgres::schema_version(pool)
        .await
        .map_err(|error| error.to_string())
}

async fn check_index(client: &Elasticsearch, alias: &str) -> Result<(), String> {
    match index::active_index(client, alias).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(format!("there is no alias {alias} yet")),
        Err(error) => Err(error.to_string()),
    }
}

async fn check_redis(redis: &RedisConfig) -> Result<(), String> {
    let ping = async {
        let mut connection = redis.client.get_multiplexed_async_connection().await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await
    };
    ping.await.map_err(|error| error.to_string())
}
