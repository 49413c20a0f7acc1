//! Databases that were restored, replaced or copied, and other ways in which time goes wrong.

mod copies;
mod servers;
mod time;
mod topics;

use std::process::Command;

use anyhow::{Context as _, Result};
use commerce_core::testing::Postgres;
use futures::TryStreamExt as _;
use pretty_assertions::assert_eq;
use sqlx::{AssertSqlSafe, Executor as _, PgPool, postgres::PgPoolCopyExt as _};
use tokio::task::spawn_blocking;

use crate::support::{CREATED, Running, World, eventually, readiness, status};

/// All that is the relay's.
const TABLES: [&str; 6] = [
    "outbox_log",
    "outbox_parked",
    "outbox_history",
    "outbox_lost",
    "relay_checkpoint",
    "relay_progress",
];

/// Runs `relay adopt`: whether it succeeded, and what it said.
async fn adopt(url: &str, yes: bool) -> Result<(bool, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command.arg("adopt").args(yes.then_some("--yes"));
    command.env_clear().env("DATABASE_URL", url);
    let output = spawn_blocking(move || command.output()).await??;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text)?;
    Ok((output.status.success(), text))
}

/// Waits until the relay refuses to go on, and returns its reason.
async fn blocked(relay: &Running) -> Result<String> {
    let why = async || Some(status(relay.admin).await.ok()?["blocked"].as_str()?.to_owned());
    eventually("the relay refuses to go on", async || why().await.is_some()).await?;
    let why = why().await.context("it goes on after all")?;
    assert_eq!(status(relay.admin).await?["state"], "waiting");
    let check = readiness(relay.admin).await?["checks"]["events"].clone();
    assert_eq!(check, serde_json::json!({"ready": false, "message": why}));
    Ok(why)
}

/// A relay that publishes is not blocked.
async fn goes_on(world: &World) -> Result<()> {
    let relay = world.relay().await?;
    world.commit(77, CREATED).await?;
    world.all_sent().await?;
    relay.active().await?;
    relay.stop().await
}

async fn number(pool: &PgPool, query: &'static str) -> Result<i64> {
    Ok(sqlx::query_scalar(query).fetch_one(pool).await?)
}

/// Copies tables row by row, as a dump does.
async fn copy(from: &World, to: &World, tables: &[&str]) -> Result<()> {
    for table in tables {
        sqlx::query(AssertSqlSafe(format!("delete from {table}")))
            .execute(&to.pool)
            .await?;
        let select = format!("copy (select * from {table}) to stdout");
        let rows = from.pool.copy_out_raw(&select).await?;
        let rows: Vec<_> = rows.try_collect().await?;
        let insert = format!("copy {table} from stdin");
        let mut into = to.pool.copy_in_raw(&insert).await?;
        for chunk in rows {
            into.send(chunk).await?;
        }
        into.finish().await?;
    }
    Ok(())
}

/// Lets transaction ids go by.
async fn spend_ids(world: &World, count: u32) -> Result<()> {
    let spend = format!(
        "do $$ begin for i in 1..{count} loop perform pg_current_xact_id(); commit; end loop; end $$"
    );
    world.pool.execute(AssertSqlSafe(spend)).await?;
    Ok(())
}

fn port(server: &Postgres) -> Result<u16> {
    let url = server.url();
    Ok(url.rsplit([':', '/']).nth(1).context("no port")?.parse()?)
}
