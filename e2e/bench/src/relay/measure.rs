//! Measuring one party: a backlog, events at a pace, nothing to do.

use std::{
    io::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep};

use super::{
    Bench, Party,
    outbox::Orders,
    table::{HEAD, Idle, Row, to_f64},
    topic::{Ends, Published, latencies},
};
use crate::{cpu, postgres, program::Program};

/// Just-in-time compilers have seen what runs most by then.
const WARM_UP: Duration = Duration::from_secs(15);
const IDLE_TIME: Duration = Duration::from_secs(20);

/// CPU time of a program and of the stores beside it since a moment.
pub(super) struct Meter {
    ids: [u32; 3],
    before: [Duration; 3],
}

impl Bench {
    pub(super) async fn fill(&self, party: &mut Party) -> Result<Orders> {
        party
            .outbox
            .fill(&self.postgres, self.options.events.into())
            .await
    }

    /// `program` has begun to publish `orders`.
    pub(super) async fn backlog(
        &mut self,
        name: &str,
        party: &Party,
        program: &mut Program,
        (began, from, orders): (SystemTime, Ends, Orders),
    ) -> Result<()> {
        let meter = self.meter(program)?;
        party
            .topic
            .grown(&from, orders.end - orders.start, program)
            .await?;
        let cpu = meter.read()?;
        let published = party.published(from, &orders).await?;
        let row = Row::backlog(name, began, cpu, &published)?;
        self.measured(Row {
            memory: Some(program.peak_memory()?),
            dead_rows: Some(party.outbox.dead_rows().await?),
            ..row
        })
    }

    pub(super) async fn pace(
        &mut self,
        name: &str,
        party: &mut Party,
        program: &mut Program,
        pace: u32,
        wake: bool,
    ) -> Result<()> {
        if !self.wanted(name) {
            return Ok(());
        }
        let from = party.topic.ends().await?;
        let warm_up = party.outbox.pace(pace, WARM_UP, wake).await?;
        party
            .topic
            .grown(&from, warm_up.end - warm_up.start, program)
            .await?;
        let from = party.topic.ends().await?;
        let meter = self.meter(program)?;
        let began = Instant::now();
        let orders = party.outbox.pace(pace, self.options.duration, wake).await?;
        let seconds = began.elapsed().as_secs_f64();
        party
            .topic
            .grown(&from, orders.end - orders.start, program)
            .await?;
        let cpu = meter.read()?;
        let published = party.published(from, &orders).await?;
        let events = count(&published)?;
        self.measured(Row {
            name: name.to_owned(),
            rate: f64::from(events) / seconds,
            first: None,
            cpu: cpu.map(|cpu| cpu / events),
            memory: Some(program.peak_memory()?),
            latency: Some(latencies(&published)),
            dead_rows: Some(party.outbox.dead_rows().await?),
        })
    }

    pub(super) async fn idle(&mut self, party: &Party, relay: &Program) -> Result<()> {
        const TRANSACTIONS: &str =
            "select xact_commit + xact_rollback from pg_stat_database where datname = $1";
        // Not in the relay's database, whose transactions are counted.
        let mut connection = postgres::connect(&self.postgres, "postgres").await?;
        let mut transactions = async || {
            let count = sqlx::query_scalar::<_, i64>(TRANSACTIONS).bind(&party.outbox.database);
            count.fetch_one(&mut connection).await
        };
        sleep(Duration::from_secs(2)).await;
        let (meter, began, before) = (self.meter(relay)?, Instant::now(), transactions().await?);
        sleep(IDLE_TIME).await;
        let ([relay, postgres, _], after) = (meter.read()?, transactions().await?);
        self.table.idle = Some(Idle {
            seconds: began.elapsed().as_secs_f64(),
            transactions: to_f64((after - before).unsigned_abs()),
            cpu: [relay, postgres],
        });
        Ok(())
    }

    pub(super) fn meter(&self, program: &Program) -> Result<Meter> {
        let ids = [program.id(), self.postgres.id(), self.kafka.id()];
        let before = times(ids)?;
        Ok(Meter { ids, before })
    }

    /// Says it at once, and keeps it for the table.
    pub(super) fn measured(&mut self, row: Row) -> Result<()> {
        let mut stdout = std::io::stdout();
        if self.table.rows.is_empty() {
            write!(stdout, "{HEAD}")?;
        }
        writeln!(stdout, "{row}")?;
        self.table.rows.push(row);
        Ok(())
    }
}

impl Meter {
    pub(super) fn read(&self) -> Result<[Duration; 3]> {
        let now = times(self.ids)?;
        Ok([0, 1, 2].map(|place| now[place].saturating_sub(self.before[place])))
    }
}

impl Row {
    /// All of `published` could have been published from `began` on.
    pub(super) fn backlog(
        name: &str,
        began: SystemTime,
        cpu: [Duration; 3],
        published: &[Published],
    ) -> Result<Self> {
        let appended = || published.iter().map(|message| message.appended);
        let (first, last) = appended()
            .min()
            .zip(appended().max())
            .context("nothing was published")?;
        let began = i64::try_from(began.duration_since(UNIX_EPOCH)?.as_micros())?;
        let since = |time: i64| Duration::from_micros((time - began).max(0).unsigned_abs());
        let events = count(published)?;
        Ok(Self {
            name: name.to_owned(),
            rate: f64::from(events) / since(last).as_secs_f64(),
            first: Some(since(first)),
            cpu: cpu.map(|cpu| cpu / events),
            memory: None,
            latency: None,
            dead_rows: None,
        })
    }
}

fn count(published: &[Published]) -> Result<u32> {
    Ok(u32::try_from(published.len())?)
}

fn times([program, postgres, kafka]: [u32; 3]) -> Result<[Duration; 3]> {
    Ok([
        cpu::of_tree(program)?,
        cpu::of_tree(postgres)?,
        cpu::of_tree(kafka)?,
    ])
}
