//! Reconciliation: the index against PostgreSQL, which decides.
//!
//! [`verify`] finds and mends what differs, [`rebuild`] fills another index. What always holds:
//! - Nothing is written but documents of orders as PostgreSQL has them, with the order's version, so whatever an event
//!   writes meanwhile wins.
//! - A document is deleted at the version at which no order was found for it; one that was written meanwhile is not.
//! - Memory is bounded, however many orders there are and however many differ.

mod documents;
mod order;
mod orders;
mod progress;
mod rebuild;
mod verify;

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use commerce_core::{
    config::{ConfigError, Env},
    elasticsearch::ElasticsearchConfig,
    postgres::PostgresConfig,
};
use sqlx::{Connection as _, Executor as _, PgConnection, postgres::PgConnectOptions};
use tokio::time::{Instant, timeout};

use self::progress::Progress;
pub(crate) use self::{rebuild::Rebuild, verify::Verify};
use crate::{
    bulk::BulkClient,
    delivery::{Answer, Delivery, Lines, Settled},
};

const READING: &str = "reading orders from PostgreSQL";
/// How long PostgreSQL may take to let us in.
const CONNECT: Duration = Duration::from_secs(5);
/// So long a store that answered at first is waited for when it does not any more.
const PATIENCE: Duration = Duration::from_mins(1);

// Rows are read in the order of their ids, always by the index: a plan for a table that seemed small would sort all of it,
// again and again.
const SESSION: &str =
    "set plan_cache_mode = force_custom_plan; set enable_seqscan = off; set enable_bitmapscan = off";

/// The stores that the tools need.
#[derive(Debug, Clone)]
struct Stores {
    postgres: PgConnectOptions,
    elasticsearch: ElasticsearchConfig,
}

/// How a tool has ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Fine,
    /// The index differs from PostgreSQL.
    Differing,
    /// Elasticsearch does not take some orders.
    Refused,
    /// By a signal.
    Interrupted,
}

impl Stores {
    /// Reads the variables of PostgreSQL and Elasticsearch.
    fn from_env(mut env: Env) -> Result<Self, ConfigError> {
        let postgres = PostgresConfig::from_env(&mut env);
        let elasticsearch = ElasticsearchConfig::from_env(&mut env);
        env.finish(|| {
            Some(Self {
                postgres: postgres?.options,
                elasticsearch: elasticsearch?,
            })
        })
    }

    async fn connect(&self, name: &str) -> anyhow::Result<PgConnection> {
        let options = self.postgres.clone().application_name(name);
        let connect = async {
            let mut connection = PgConnection::connect_with(&options).await?;
            connection.execute(SESSION).await?;
            Ok::<_, sqlx::Error>(connection)
        };
        timeout(CONNECT, connect)
            .await
            .map_err(|_| anyhow!("no answer within {} s", CONNECT.as_secs()))
            .and_then(|connected| Ok(connected?))
            .context("connecting to PostgreSQL")
    }
}

/// Sends documents until each is settled. Gives up when Elasticsearch has taken none for a while.
async fn deliver<I: Lines>(
    bulk: &BulkClient,
    body: Vec<u8>,
    items: Vec<I>,
    progress: &Progress,
) -> anyhow::Result<Vec<(I, Settled)>> {
    let mut all = Vec::with_capacity(items.len());
    let mut delivery = Delivery::new(body, items);
    let mut since = Instant::now();
    while let Some(answer) = delivery.next(bulk).await {
        let problem = match answer {
            Answer::Each { settled, again, .. } => {
                if !settled.is_empty() {
                    since = Instant::now();
                }
                all.extend(settled);
                again.map(|(_, problem)| problem)
            }
            Answer::Failed { problem, .. } => Some(problem),
        };
        if let Some(problem) = problem {
            if since.elapsed() > PATIENCE {
                bail!("Elasticsearch takes no documents: {problem}");
            }
            progress.waiting(&problem);
        }
    }
    Ok(all)
}
