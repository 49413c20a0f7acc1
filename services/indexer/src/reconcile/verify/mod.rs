//! Compares PostgreSQL's orders with the index, and mends the index.
//!
//! Both sides are summed up block by block, by the ids of the orders: PostgreSQL counts and digests its rows itself, the
//! documents are read. Where the sums differ, orders and documents are compared one by one. What differs then is a suspect
//! only, since the two sides were not read at the same moment and events take their time: it is looked at again, by its
//! id, when the grace is over.

mod report;
mod suspects;

use std::{collections::HashMap, pin::pin, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use commerce_core::{config::Env, print::Output};
use futures::{Stream, StreamExt as _};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use self::{
    report::Report,
    suspects::{Repair, Suspects},
};
use super::{
    Ended, READING, Stores,
    documents::{Content, Document, Documents},
    order::Order,
    orders::{self, Block, Summary},
    progress::Progress,
};
use crate::{bulk::BulkClient, cli};

const NAME: &str = "indexer-verify";
const LONGEST_GRACE: Duration = Duration::from_hours(1);
/// Blocks whose documents are read at a time.
const PARALLEL: usize = 4;

/// Compare the orders in PostgreSQL with the index. Exit code 3: they differ.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Write the documents that are missing or wrong, and delete those of no order.
    #[arg(long)]
    repair: bool,
    /// Leave out the orders before this id.
    #[arg(long, value_name = "ID", default_value_t = 1, value_parser = cli::order_id())]
    from: i64,
    /// Leave out the orders after this id, and documents whose id is no order's.
    #[arg(long, value_name = "ID", value_parser = cli::order_id())]
    to: Option<i64>,
    /// How long an order may take from PostgreSQL to the index.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = grace)]
    grace: Duration,
    /// An index to look at instead of the one behind the alias.
    #[arg(long, value_name = "NAME", value_parser = cli::index_name)]
    index: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

fn grace(text: &str) -> Result<Duration, String> {
    let grace = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    (grace <= LONGEST_GRACE)
        .then_some(grace)
        .ok_or_else(|| format!("it takes {} at most", humantime::format_duration(LONGEST_GRACE)))
}

/// A block of orders, and the documents with their ids.
type Compared = (Block, Vec<Document<Content>>);

impl Verify {
    /// Does what the command line says, until `stop`.
    pub(crate) async fn run(self, env: Env, stop: CancellationToken) -> anyhow::Result<Ended> {
        if self.to.is_some_and(|to| to < self.from) {
            bail!("--to is before --from");
        }
        let stores = Stores::from_env(env)?;
        let mut connection = stores.connect(NAME).await?;
        if self.repair && orders::is_standby(&mut connection).await.context(READING)? {
            bail!("this PostgreSQL is a standby, which may be behind: --repair needs the primary");
        }
        let last = match self.to {
            Some(last) => last,
            None => orders::last(&mut connection).await.context(READING)?,
        };
        let index = self.index.as_ref().unwrap_or(&stores.elasticsearch.index);
        let documents = Documents::new(&stores.elasticsearch, index)?;
        documents.refresh().await?;
        let repair = self.repair(&stores, &documents).await?;
        let blocks = orders::blocks(stores.connect(NAME).await?, self.from, last).map(|block| async {
            let block = block.context(READING)?;
            anyhow::Ok((block, documents.between(block.first, block.last).await?))
        });

        let mut comparison = Comparison {
            documents: &documents,
            suspects: Suspects::new(&documents, connection, self.grace, repair),
            report: Report::new(self.output, self.from)?,
            progress: Progress::new("compared", self.from, last),
            compared: self.from - 1,
        };
        let strays_after = self.to.is_none().then_some(last);
        let finished = tokio::select! {
            result = comparison.run(blocks.buffered(PARALLEL), strays_after) => Some(result),
            () = stop.cancelled() => None,
        };
        let goes_on = format!("--from {} goes on where this has stopped", comparison.next());
        if let Some(result) = finished {
            result.context(goes_on)?;
            return comparison.report.finish(&comparison.progress);
        }
        comparison.progress.say(&format!("interrupted; {goes_on}"));
        Ok(Ended::Interrupted)
    }

    async fn repair(&self, stores: &Stores, documents: &Documents) -> anyhow::Result<Option<Repair>> {
        if !self.repair {
            return Ok(None);
        }
        Ok(Some(Repair {
            bulk: match &self.index {
                Some(index) => BulkClient::to_index(&stores.elasticsearch, index)?,
                None => BulkClient::new(&stores.elasticsearch)?,
            },
            gc_deletes: documents.gc_deletes().await?,
        }))
    }
}

struct Comparison<'a> {
    documents: &'a Documents,
    suspects: Suspects<'a>,
    report: Report,
    progress: Progress,
    /// The last id whose order and document were compared.
    compared: i64,
}

impl Comparison<'_> {
    /// Compares these, and looks for documents of no order where it is told after which order.
    async fn run(
        &mut self,
        blocks: impl Stream<Item = anyhow::Result<Compared>>,
        strays_after: Option<i64>,
    ) -> anyhow::Result<()> {
        let mut blocks = pin!(blocks);
        while let Some(compared) = blocks.next().await {
            let (block, found) = compared?;
            let ids = suspicious(&block, &found, self.suspects.connection())
                .await
                .context(READING)?;
            self.suspects.add(ids);
            self.compared = block.last;
            self.report.compared(&block, found.len());
            self.progress
                .reached(block.last, block.summary.orders.unsigned_abs());
            self.suspects
                .settle_some(&mut self.report, &self.progress)
                .await?;
        }
        if let Some(last) = strays_after {
            self.look_for_strays(last).await?;
        }
        self.suspects.settle_all(&mut self.report, &self.progress).await?;
        if self.report.has_repairs() {
            self.documents.refresh().await?;
        }
        Ok(())
    }

    async fn look_for_strays(&mut self, last: i64) -> anyhow::Result<()> {
        // Orders that have come about meanwhile account for documents, too.
        let now = orders::last(self.suspects.connection()).await.context(READING)?;
        let mut strays = self.documents.strays(now.max(last)).await?;
        loop {
            let ids = strays.next().await?;
            if ids.is_empty() {
                return Ok(());
            }
            self.suspects.add(ids);
            self.suspects
                .settle_some(&mut self.report, &self.progress)
                .await?;
        }
    }

    /// The order from which on another run has something to do.
    fn next(&self) -> i64 {
        let next = self.compared + 1;
        self.suspects.first().map_or(next, |first| first.min(next))
    }
}

/// The ids in a block whose orders and documents are not the same.
async fn suspicious(
    block: &Block,
    found: &[Document<Content>],
    connection: &mut PgConnection,
) -> Result<Vec<String>, sqlx::Error> {
    let mut summary = Summary::default();
    for document in found {
        summary.add(document.digest());
    }
    if summary == block.summary {
        return Ok(Vec::new());
    }
    let orders: Vec<Order> = orders::of(connection, block).await?;
    let mut found: HashMap<&str, &Document<Content>> = found
        .iter()
        .map(|document| (document.id.as_str(), document))
        .collect();
    let mut ids = Vec::new();
    for order in orders {
        let document = found.remove(order.id.as_str());
        if !document.is_some_and(|document| document.is_of(&order)) {
            ids.push(order.id);
        }
    }
    ids.extend(found.into_keys().map(str::to_owned));
    Ok(ids)
}
