//! What is done to PostgreSQL before a measurement.

use anyhow::{Context as _, Result};
use commerce_core::testing::Postgres;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

/// Connects as a superuser.
pub async fn connect(server: &Postgres, database: &str) -> Result<PgConnection> {
    let url = server.admin_url();
    let address = url
        .strip_suffix("postgres")
        .context("the URL names another database")?;
    Ok(PgConnection::connect(&format!("{address}{database}")).await?)
}

/// Runs statements as a superuser, each in a transaction of its own.
pub async fn administer(server: &Postgres, database: &str, statements: &[&str]) -> Result<()> {
    let mut connection = connect(server, database).await?;
    for statement in statements {
        connection
            .execute(AssertSqlSafe(*statement))
            .await
            .with_context(|| format!("running {statement}"))?;
    }
    Ok(())
}

/// A PostgreSQL that has run for a while writes over WAL files that it has; one that has just begun makes a new one every
/// 16 MiB, for which every commit waits. So it begins with enough of them for a measurement.
pub async fn fill_wal(server: &Postgres) -> Result<()> {
    let fill = [
        "alter system set min_wal_size = '1GB'",
        "select pg_reload_conf()",
        "create table filler as select repeat('x', 1000) from generate_series(1, 800000)",
        "drop table filler",
        "checkpoint",
    ];
    administer(server, "postgres", &fill).await
}
