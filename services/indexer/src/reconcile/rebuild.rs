//! Fills an index from PostgreSQL, beside the one that is in use.
//!
//! Documents are written with the order's version: what an event writes into the same index meanwhile wins, and a second run
//! over the same orders changes nothing.

use std::{io::Write as _, ops::Range, pin::pin, time::Duration};

use anyhow::{Context as _, bail};
use chrono::Utc;
use clap::Args;
use commerce_core::{
    config::Env,
    index,
    print::{counted, safe},
};
use futures::StreamExt as _;
use sqlx::PgConnection;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Ended, READING, Stores, deliver, documents::Documents, order::Order, orders, progress::Progress,
};
use crate::{
    bulk::BulkClient,
    cli,
    delivery::{Lines, Settled},
    document::VersionType,
    target,
};

/// So many refusals are told one by one.
const TOLD: u64 = 10;

/// Fill an index from PostgreSQL, for a new mapping. It is created if it is missing, as the template says; the alias is
/// left alone. A repeated run is harmless.
#[derive(Debug, Args)]
pub(crate) struct Rebuild {
    /// The index.
    #[arg(long, value_name = "NAME", value_parser = cli::index_name)]
    into: String,
    /// Have `serve` write new events into it, too, from now on, so that it misses none when the alias is moved to it.
    #[arg(long)]
    live: bool,
    /// Leave out the orders before this id, which an earlier run has written.
    #[arg(long, value_name = "ID", default_value_t = 1, value_parser = cli::order_id())]
    from: i64,
    /// Orders in a bulk request.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    batch: u32,
    /// Bulk requests at a time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    parallel: u8,
}

/// What became of orders.
#[derive(Debug, Default)]
struct Totals {
    written: u64,
    /// The index had this version or a newer one.
    known: u64,
    refused: u64,
    first_refusal: Option<String>,
}

/// One order in a bulk request.
struct Item {
    order_id: String,
    lines: Range<usize>,
}

impl Lines for Item {
    fn lines(&self) -> Range<usize> {
        self.lines.clone()
    }
}

impl Rebuild {
    /// Does what the command line says, until `stop`.
    pub(crate) async fn run(self, env: Env, stop: CancellationToken) -> anyhow::Result<Ended> {
        let stores = Stores::from_env(env)?;
        let alias = &stores.elasticsearch.index;
        let into = &self.into;
        if into == alias {
            bail!("{into} is the alias; --into takes the name of an index, such as {into}-2");
        }
        let mut connection = stores.connect("indexer-rebuild").await?;
        let last = orders::last(&mut connection).await.context(READING)?;

        let documents = Documents::new(&stores.elasticsearch, into)?;
        let created = index::create_beside(documents.client(), alias, into).await?;
        let bulk = BulkClient::to_index(&stores.elasticsearch, into)?;
        if self.live {
            index::move_alias(documents.client(), &index::next_alias(alias), into).await?;
            // All who write know it then, and what they wrote before is in PostgreSQL.
            sleep(target::KNOWN + Duration::from_secs(1)).await;
        }

        let progress = Progress::new("written", self.from, last.max(self.from));
        let state = if created { "is created" } else { "exists already" };
        progress.say(&format!(
            "{into} {state}; writing the orders from {} on",
            self.from
        ));
        let Some(totals) = self.fill(connection, &bulk, &stop, &progress).await? else {
            return Ok(Ended::Interrupted);
        };
        progress.end();
        documents.refresh().await?;
        let count = documents.count().await?;
        let active = index::active_index(documents.client(), alias).await?;
        let mut text = format!(
            "{into}: {} written, {} there already in this version or a newer one; it has {}\n",
            counted(totals.written, "order", "orders"),
            totals.known,
            counted(count, "document", "documents"),
        );
        text.push_str(&how_to_switch(alias, active.as_deref(), into, self.live));
        std::io::stdout()
            .write_all(text.as_bytes())
            .context("printing the result")?;
        let Some(first) = totals.first_refusal else {
            return Ok(Ended::Fine);
        };
        let refused = counted(totals.refused, "order", "orders");
        progress.say(&format!("Elasticsearch refused {refused}, first {first}"));
        Ok(Ended::Refused)
    }

    /// Writes all orders; `None` where `stop` came first.
    async fn fill(
        &self,
        connection: PgConnection,
        bulk: &BulkClient,
        stop: &CancellationToken,
        progress: &Progress,
    ) -> anyhow::Result<Option<Totals>> {
        let pages = orders::pages(connection, self.from, self.batch).map(|page| async {
            let page = page.context(READING)?;
            let highest = page.last().and_then(|order| order.id.parse().ok());
            anyhow::Ok((highest, write(bulk, page, progress).await?))
        });
        // In the order of the pages, so that all before the one that is done are done.
        let mut pages = pin!(pages.buffered(usize::from(self.parallel)));
        let (mut next, mut totals) = (self.from, Totals::default());
        let work = async {
            while let Some(page) = pages.next().await {
                let (highest, settled) = page?;
                let orders = u64::try_from(settled.len()).unwrap_or_default();
                totals.add(settled, progress);
                if let Some(highest) = highest {
                    next = highest + 1;
                    progress.reached(highest, orders);
                }
            }
            anyhow::Ok(())
        };
        let finished = tokio::select! {
            result = work => Some(result),
            () = stop.cancelled() => None,
        };
        let goes_on = format!("--from {next} goes on where this has stopped");
        if let Some(result) = finished {
            return result.context(goes_on).map(|()| Some(totals));
        }
        progress.say(&format!("interrupted; {goes_on}"));
        Ok(None)
    }
}

async fn write(
    bulk: &BulkClient,
    orders: Vec<Order>,
    progress: &Progress,
) -> anyhow::Result<Vec<(Item, Settled)>> {
    let (mut items, mut body) = (Vec::with_capacity(orders.len()), Vec::new());
    let now = Utc::now();
    for order in orders {
        let lines = order.document(now).write(VersionType::External, &mut body);
        items.push(Item {
            lines,
            order_id: order.id,
        });
    }
    deliver(bulk, body, items, progress).await
}

impl Totals {
    fn add(&mut self, settled: Vec<(Item, Settled)>, progress: &Progress) {
        for (item, settled) in settled {
            match settled {
                Settled::Done => self.written += 1,
                Settled::Conflict => self.known += 1,
                Settled::Rejected(error) => {
                    self.refused += 1;
                    let refusal = format!("order {}: {}", item.order_id, safe(&error));
                    if self.refused <= TOLD {
                        progress.say(&format!("refused: {refusal}"));
                    }
                    self.first_refusal.get_or_insert(refusal);
                }
            }
        }
    }
}

fn how_to_switch(alias: &str, active: Option<&str>, into: &str, live: bool) -> String {
    let remove = match active {
        Some(active) if active == into => return format!("The alias {alias} points at it.\n"),
        Some(active) => format!("{{\"remove\":{{\"index\":\"{active}\",\"alias\":\"{alias}\"}}}},"),
        None => String::new(),
    };
    let next = index::next_alias(alias);
    // The index lost it where it did not take an event; then nothing is moved.
    let live = if live {
        format!("{{\"remove\":{{\"index\":\"{into}\",\"alias\":\"{next}\",\"must_exist\":true}}}},")
    } else {
        String::new()
    };
    let add = format!("{{\"add\":{{\"index\":\"{into}\",\"alias\":\"{alias}\",\"is_write_index\":true}}}}");
    format!(
        "To let the alias {alias} point at it:
  1. indexer verify --repair --index {into}    # what has changed since
  2. POST /_aliases {{\"actions\":[{live}{remove}{add}]}}
  3. indexer verify --repair    # what has changed between 1 and 2
"
    )
}
