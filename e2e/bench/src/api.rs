//! How fast orders are taken, and searches answered.

use std::{fmt, io::Write as _, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use commerce_core::{
    elasticsearch::ElasticsearchConfig,
    index::{self, IndexSpec},
    testing::{Elasticsearch, Postgres, Redis},
};
use tokio::process::Command;

use crate::{
    cpu, pgbench, postgres,
    program::{Program, beside, free_address},
    report, repository, wrk,
};

const SKUS: u32 = 1000;
const INDEX: &str = "orders";
/// Users whose searches are repeated: all of them fit the cache.
const CACHED_USERS: u32 = 100;

const HEAD: &str = "\
| what | a second | p50 | p99 | CPU a request: PostgreSQL | program | load generator |
| --- | --- | --- | --- | --- | --- | --- |
";

/// One line of the table.
struct Row {
    name: &'static str,
    rate: f64,
    p50: Duration,
    p99: Duration,
    /// CPU time of PostgreSQL, of the program under test, and of the load generator, a request.
    cpu: [Duration; 3],
}

struct Bench {
    repository: PathBuf,
    postgres: Postgres,
    elasticsearch: Elasticsearch,
    redis: Redis,
    duration: Duration,
    only: Option<String>,
    rows: Vec<Row>,
}

/// A program that answers HTTP.
struct Server {
    program: Program,
    url: String,
}

/// Measures, prints, and writes the table.
pub async fn run(duration: Duration, only: Option<&str>) -> Result<()> {
    let repository = repository::folder()?;
    let (postgres, elasticsearch, redis) =
        tokio::try_join!(Postgres::start(), Elasticsearch::start(), Redis::start())?;
    let mut bench = Bench {
        repository,
        postgres,
        elasticsearch,
        redis,
        duration,
        only: only.map(str::to_owned),
        rows: Vec::new(),
    };
    bench.prepare().await?;
    bench.orders().await?;
    bench.searches().await?;
    if only.is_none() {
        report::write(&bench.repository, "bench-api", &bench.table())?;
    }
    Ok(())
}

impl Bench {
    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("DATABASE_URL", self.postgres.url()),
            ("ELASTICSEARCH_URL", self.elasticsearch.url().to_string()),
            ("ELASTICSEARCH_INDEX", INDEX.to_owned()),
            ("REDIS_URL", self.redis.url()),
        ]
    }

    async fn prepare(&self) -> Result<()> {
        let migrated = beside("api")?
            .args([
                "migrate",
                "--seed-skus",
                &SKUS.to_string(),
                "--seed-stock",
                "1000000000",
            ])
            .envs(self.variables())
            .status()
            .await
            .context("running api migrate: is it built beside this program?")?;
        ensure!(migrated.success(), "api migrate: {migrated}");
        let config = ElasticsearchConfig::open(self.elasticsearch.url().clone(), INDEX);
        index::ensure(&config.client(Duration::from_secs(30))?, &IndexSpec::new(INDEX)).await?;
        postgres::fill_wal(&self.postgres).await
    }

    fn wanted(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only))
    }

    async fn orders(&mut self) -> Result<()> {
        for (name, script) in [
            (
                "pgbench, 64 clients, five statements an order",
                pgbench::TRANSACTION,
            ),
            (
                "pgbench, 64 clients, the same in one statement",
                pgbench::STATEMENT,
            ),
        ] {
            self.pgbench(name, script).await?;
        }
        for (name, connections, skus, alone) in [
            ("API, 64 connections, 1,000 SKUs", 64, SKUS, false),
            ("API, 256 connections, 1,000 SKUs", 256, SKUS, false),
            ("API, 256 connections, 1 SKU", 256, 1, false),
            ("API, 64 connections, group commit off", 64, SKUS, true),
            ("API, 256 connections, group commit off", 256, SKUS, true),
        ] {
            if !self.wanted(name) {
                continue;
            }
            self.empty().await?;
            let off = [
                ("GROUP_COMMIT_MAX_ORDERS", "1"),
                ("GROUP_COMMIT_CONNECTIONS", "64"),
                ("DATABASE_POOL_SIZE", "72"),
            ];
            let api = self.api(if alone { &off } else { &[] }).await?;
            self.wrk(name, &api, "orders.lua", connections, skus).await?;
        }
        Ok(())
    }

    async fn searches(&mut self) -> Result<()> {
        let name = "bare axum route";
        if self.wanted(name) {
            let address = free_address()?;
            let mut command = beside("bench")?;
            command.arg("bare").arg(address.to_string());
            let bare = Server::start(command, format!("http://{address}"), "/search/orders").await?;
            self.wrk(name, &bare, "search.lua", 64, CACHED_USERS).await?;
        }
        for (name, users) in [
            ("search, answer in the cache", CACHED_USERS),
            ("search, answer not in the cache", u32::MAX),
        ] {
            if self.wanted(name) {
                let api = self.api(&[]).await?;
                self.wrk(name, &api, "search.lua", 64, users).await?;
            }
        }
        Ok(())
    }

    /// Every measurement begins with tables that are empty and statistics that are fresh.
    async fn empty(&self) -> Result<()> {
        let statements = ["truncate orders, outbox_log", "vacuum analyze skus", "checkpoint"];
        postgres::administer(&self.postgres, "commerce", &statements).await
    }

    async fn pgbench(&mut self, name: &'static str, script: &str) -> Result<()> {
        if !self.wanted(name) {
            return Ok(());
        }
        self.empty().await?;
        let before = cpu::of_tree(self.postgres.id())?;
        let load = pgbench::run(&self.postgres.url(), script, 64, self.duration, SKUS).await?;
        let postgres = cpu::of_tree(self.postgres.id())?.saturating_sub(before);
        let orders = load.transactions_per_second * self.duration.as_secs_f64();
        self.measured(Row {
            name,
            rate: load.transactions_per_second,
            p50: load.p50,
            p99: load.p99,
            cpu: [postgres, Duration::ZERO, load.cpu].map(|cpu| cpu.div_f64(orders)),
        })
    }

    async fn wrk(
        &mut self,
        name: &'static str,
        server: &Server,
        script: &str,
        connections: u32,
        variety: u32,
    ) -> Result<()> {
        let run = self.rows.len().to_string();
        let script = self.repository.join("e2e/bench/load").join(script);
        let arguments = [run.as_str(), &variety.to_string()];
        let warm_up = Duration::from_secs(2);
        wrk::run(
            &server.url,
            &script,
            connections,
            warm_up,
            &[&format!("warm-up-{run}"), arguments[1]],
        )
        .await?;
        let pids = [self.postgres.id(), server.program.id()];
        let before = pids.map(cpu::of_tree);
        let load = wrk::run(&server.url, &script, connections, self.duration, &arguments).await?;
        let after = pids.map(cpu::of_tree);
        let [postgres, tested] = [0, 1].map(|place| match (&before[place], &after[place]) {
            (Ok(before), Ok(after)) => after.saturating_sub(*before),
            _ => Duration::ZERO,
        });
        self.measured(Row {
            name,
            rate: load.rate(),
            p50: load.p50,
            p99: load.p99,
            cpu: [postgres, tested, load.cpu].map(|cpu| cpu.div_f64(load.requests)),
        })
    }

    async fn api(&self, variables: &[(&str, &str)]) -> Result<Server> {
        let address = free_address()?;
        let mut command = beside("api")?;
        command
            .arg("serve")
            .envs(self.variables())
            .envs(variables.iter().copied())
            .env("LOG_LEVEL", "warn")
            .env("HTTP_ADDR", address.to_string())
            .env("ADMIN_ADDR", free_address()?.to_string());
        Server::start(command, format!("http://{address}"), "/products").await
    }

    /// Says it at once, and keeps it for the table.
    fn measured(&mut self, row: Row) -> Result<()> {
        if self.rows.is_empty() {
            write!(std::io::stdout(), "{HEAD}")?;
        }
        writeln!(std::io::stdout(), "{row}")?;
        self.rows.push(row);
        Ok(())
    }

    fn table(&self) -> String {
        self.rows
            .iter()
            .fold(HEAD.to_owned(), |table, row| format!("{table}{row}\n"))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
        let [postgres, program, generator] =
            self.cpu.map(|time| format!("{:.0} µs", time.as_secs_f64() * 1e6));
        write!(
            f,
            "| {} | {:.0} | {} | {} | {postgres} | {program} | {generator} |",
            self.name,
            self.rate,
            milliseconds(self.p50),
            milliseconds(self.p99),
        )
    }
}

impl Server {
    /// Starts it, and waits until it answers `path`.
    async fn start(mut command: Command, url: String, path: &str) -> Result<Self> {
        command.stdin(Stdio::null());
        let mut program = Program::start(command)?;
        program.answers(&format!("{url}{path}")).await?;
        Ok(Self { program, url })
    }
}
