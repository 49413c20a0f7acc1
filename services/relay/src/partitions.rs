//! Makes the outbox's daily partitions ahead of time.
//!
//! A missing partition stops no order, since rows without one land in the default partition; so a failure here is only
//! a warning, and another attempt is made soon.

use std::time::Duration;

use commerce_core::postgres::PostgresConfig;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::time::sleep;

/// How many days ahead, besides today.
const AHEAD: i32 = 3;
const INTERVAL: Duration = Duration::from_hours(1);
const RETRY: Duration = Duration::from_mins(1);

/// Keeps making them.
pub async fn keep(postgres: &PostgresConfig) {
    let mut failed = false;
    loop {
        let result = create(postgres, AHEAD).await;
        match &result {
            Ok(0) => {}
            Ok(created) => tracing::info!(created, "made partitions of the outbox"),
            Err(error) if !failed => tracing::warn!(%error, "making partitions of the outbox"),
            Err(error) => tracing::debug!(%error, "making partitions of the outbox"),
        }
        failed = result.is_err();
        sleep(if failed { RETRY } else { INTERVAL }).await;
    }
}

/// Makes the partitions that are missing and returns how many those were. One that can't be made (rows of its day may
/// stand in the default partition already) keeps none of the others from being made.
async fn create(postgres: &PostgresConfig, ahead: i32) -> Result<usize, sqlx::Error> {
    let options = postgres.options.clone().application_name("relay-partitions");
    let mut connection = PgConnection::connect_with(&options).await?;
    // Attaching waits for whoever reads the default partition, and others wait behind it.
    connection.execute("set lock_timeout = '200ms'").await?;
    let (mut created, mut problem) = (0, None);
    for day in 0..=ahead {
        let add = sqlx::query_scalar::<_, bool>(
            "select outbox_log_add_partition((now() at time zone 'UTC')::date + $1)",
        );
        match add.bind(day).fetch_one(&mut connection).await {
            Ok(new) => created += usize::from(new),
            Err(error) => problem = Some(error),
        }
    }
    connection.close().await?;
    problem.map_or(Ok(created), Err)
}
