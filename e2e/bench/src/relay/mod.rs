//! The relay against Debezium's outbox event router and a bare producer.
//!
//! Each party has a database and topics of its own on the same servers, and the same rows in them. A backlog is measured from when the
//! party could begin (the relay holds its lease, Debezium's replication slot is active) to the broker's stamp on the last message,
//! paced events from the time in the row to the broker's stamp. All that was written must have been published, once, or the bench
//! fails.

mod debezium;
mod measure;
mod outbox;
pub mod producer;
mod table;
mod topic;

use std::{
    io::Write as _,
    process::Stdio,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use commerce_core::testing::{Kafka, Postgres};

use self::{
    debezium::Connect,
    outbox::{Orders, Outbox},
    producer::BareProducer,
    table::{BARE, DEBEZIUM, HEAD, HELD, IDLE, PACES, RELAY, Row, Table, paced},
    topic::{Ends, Published, Topic},
};
use crate::{
    cpu, postgres,
    program::{Program, beside, free_address},
    report, repository,
};

/// When an active relay has just become one.
const LEASE_HELD: &str = "select lease_expires_at is not null from relay_checkpoint";

/// How to measure.
pub struct Options {
    /// In a backlog.
    pub events: u32,
    /// Of each pace.
    pub duration: Duration,
    /// Only measurements whose name has this in it.
    pub only: Option<String>,
}

struct Bench {
    options: Options,
    postgres: Postgres,
    kafka: Kafka,
    table: Table,
}

/// What a party reads and writes.
struct Party {
    outbox: Outbox,
    topic: Topic,
}

/// Measures, prints, and writes the tables.
pub async fn run(options: Options) -> Result<()> {
    let repository = repository::folder()?;
    let (postgres, kafka) = tokio::try_join!(Postgres::start(), Kafka::optimised())?;
    let mut bench = Bench {
        options,
        postgres,
        kafka,
        table: Table::default(),
    };
    bench.prepare().await?;
    bench.bare_producer().await?;
    bench.relay().await?;
    bench.relay_beside_a_transaction().await?;
    bench.debezium().await?;
    let Bench { table, options, .. } = &bench;
    let targets = table.targets();
    write!(std::io::stdout(), "{targets}")?;
    if options.only.is_none() {
        let rows = table.rows.iter().map(|row| format!("{row}\n"));
        let rows: String = rows.collect();
        report::write(&repository, "bench-relay", &format!("{HEAD}{rows}{targets}"))?;
    }
    Ok(())
}

impl Bench {
    /// No checkpoint, and no vacuum, which would also hide dead rows, is to fall into somebody's time.
    async fn prepare(&self) -> Result<()> {
        let settings = [
            "alter system set wal_level = 'logical'",
            "alter system set max_wal_size = '8GB'",
            "alter system set autovacuum = off",
        ];
        postgres::administer(&self.postgres, "postgres", &settings).await?;
        self.postgres.restart().await?;
        postgres::fill_wal(&self.postgres).await
    }

    fn wanted(&self, name: &str) -> bool {
        let only = self.options.only.as_ref();
        only.is_none_or(|only| name.contains(only))
    }

    fn any_wanted(&self, names: &[&str], party: &str) -> bool {
        let mut paces = PACES.iter().map(|pace| paced(party, *pace));
        names.iter().any(|name| self.wanted(name)) || paces.any(|name| self.wanted(&name))
    }

    async fn party(&self, name: &str) -> Result<Party> {
        let outbox = Outbox::create(&self.postgres, &name.replace('-', "_")).await?;
        let topic = Topic::create(self.kafka.bootstrap(), &format!("{name}.")).await?;
        Ok(Party { outbox, topic })
    }

    /// The first times are not counted: they are Kafka's warm-up.
    async fn bare_producer(&mut self) -> Result<()> {
        let mut party = self.party("bare").await?;
        let orders = self.fill(&mut party).await?;
        for counts in [false, false, true] {
            if counts && !self.wanted(BARE) {
                break;
            }
            cpu::at_rest(&[self.kafka.id()]).await?;
            let from = party.topic.ends().await?;
            let mut bare = BareProducer::start(&party.outbox.url, &party.topic.kafka).await?;
            let meter = self.meter(&bare.program)?;
            let began = SystemTime::now();
            bare.send().await?;
            party
                .topic
                .grown(&from, self.options.events.into(), &mut bare.program)
                .await?;
            let cpu = meter.read()?;
            if counts {
                let published = party.published(from, &orders).await?;
                let backlog = Row::backlog(BARE, began, cpu, &published)?;
                self.measured(backlog)?;
            }
        }
        Ok(())
    }

    /// Paced events first: until it has had many small requests, Kafka takes more than twice the time for each.
    async fn relay(&mut self) -> Result<()> {
        if !self.any_wanted(&[RELAY, IDLE], "relay") {
            return Ok(());
        }
        let mut party = self.party("relay").await?;
        let mut relay = start_relay(&party)?;
        party
            .outbox
            .moment("the relay holds the lease", LEASE_HELD)
            .await?;
        for pace in PACES {
            self.pace(&paced("relay", pace), &mut party, &mut relay, pace, true)
                .await?;
        }
        if self.wanted(IDLE) {
            self.idle(&party, &relay).await?;
        }
        relay.stop().await?;
        if self.wanted(RELAY) {
            self.relay_backlog(RELAY, &mut party).await?;
        }
        Ok(())
    }

    async fn relay_beside_a_transaction(&mut self) -> Result<()> {
        if !self.wanted(HELD) {
            return Ok(());
        }
        let mut party = self.party("relay-beside-a-transaction").await?;
        let held = party.outbox.hold().await?;
        let mut relay = self.relay_backlog(HELD, &mut party).await?;
        let from = party.topic.ends().await?;
        let order = held.order.clone();
        held.commit().await?;
        party.topic.grown(&from, 1, &mut relay).await?;
        party.published(from, &order).await?;
        Ok(())
    }

    async fn relay_backlog(&mut self, name: &str, party: &mut Party) -> Result<Program> {
        let orders = self.fill(party).await?;
        cpu::at_rest(&[self.kafka.id()]).await?;
        let from = party.topic.ends().await?;
        let mut relay = start_relay(party)?;
        let began = party
            .outbox
            .moment("the relay holds the lease", LEASE_HELD)
            .await?;
        self.backlog(name, party, &mut relay, (began, from, orders))
            .await?;
        Ok(relay)
    }

    async fn debezium(&mut self) -> Result<()> {
        if !self.any_wanted(&[DEBEZIUM], "Debezium") {
            return Ok(());
        }
        let mut party = self.party("debezium").await?;
        let connect = Connect::configure(&self.postgres, &party.outbox, &party.topic).await?;
        let mut program = connect.start()?;
        let active = "Debezium reads its slot";
        party.outbox.moment(active, debezium::ACTIVE).await?;
        // It goes on after the last event that it has published, so there has to be one.
        let from = party.topic.ends().await?;
        let first = party.outbox.fill(&self.postgres, 1).await?;
        party.topic.grown(&from, 1, &mut program).await?;
        party.published(from, &first).await?;
        if self.wanted(DEBEZIUM) {
            program.stop().await?;
            let orders = self.fill(&mut party).await?;
            cpu::at_rest(&[self.kafka.id()]).await?;
            let from = party.topic.ends().await?;
            program = connect.start()?;
            let began = party.outbox.moment(active, debezium::ACTIVE).await?;
            self.backlog(DEBEZIUM, &party, &mut program, (began, from, orders))
                .await?;
        }
        for pace in PACES {
            self.pace(&paced("Debezium", pace), &mut party, &mut program, pace, false)
                .await?;
        }
        Ok(())
    }
}

impl Party {
    /// What was published since, which has to be the events of `orders`.
    async fn published(&self, from: Ends, orders: &Orders) -> Result<Vec<Published>> {
        let events = self.outbox.event_ids(orders).await?;
        self.topic.published(from, events).await
    }
}

fn start_relay(party: &Party) -> Result<Program> {
    let kafka = &party.topic.kafka;
    let mut command = beside("relay")?;
    command
        .arg("serve")
        .env("ADMIN_ADDR", free_address()?.to_string())
        .env("DATABASE_URL", &party.outbox.url)
        .env("KAFKA_BOOTSTRAP_SERVERS", &kafka.bootstrap_servers)
        .env("KAFKA_TOPIC_PREFIX", &kafka.topic_prefix)
        .env("LOG_LEVEL", "warn")
        .stdin(Stdio::null());
    Program::start(command)
}
