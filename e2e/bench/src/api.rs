//! How fast orders are taken, and searches answered.

use std::{
    fmt,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use commerce_core::{
    elasticsearch::ElasticsearchConfig,
    index::{self, IndexSpec},
    testing::{Elasticsearch, Postgres, Redis},
};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::{cpu, pgbench, report, wrk};

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
    programs: PathBuf,
    postgres: Postgres,
    elasticsearch: Elasticsearch,
    redis: Redis,
    duration: Duration,
    only: Option<String>,
    rows: Vec<Row>,
}

/// A program under test, killed when dropped.
struct Program {
    child: Child,
    url: String,
}

/// Measures, prints, and writes the table.
pub async fn run(duration: Duration, only: Option<&str>) -> Result<()> {
    let own = std::env::current_exe().context("finding this program's own path")?;
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .context("the repository's folder")?;
    let (postgres, elasticsearch, redis) =
        tokio::try_join!(Postgres::start(), Elasticsearch::start(), Redis::start())?;
    let mut bench = Bench {
        repository: repository.to_owned(),
        programs: own
            .parent()
            .context("this program's path has no folder")?
            .to_owned(),
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
        report::write(repository, "bench-api", &bench.table())?;
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
        let migrated = Command::new(self.programs.join("api"))
            .args([
                "migrate",
                "--seed-skus",
                &SKUS.to_string(),
                "--seed-stock",
                "1000000000",
            ])
            .env_clear()
            .envs(self.variables())
            .status()
            .await
            .context("running api migrate: is it built beside this program?")?;
        ensure!(migrated.success(), "api migrate: {migrated}");
        let config = ElasticsearchConfig::open(self.elasticsearch.url().clone(), INDEX);
        index::ensure(&config.client(Duration::from_secs(30))?, &IndexSpec::new(INDEX)).await?;
        self.fill_wal().await
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
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("bare").arg(address.to_string());
            let bare = Program::start(command, address, "/search/orders").await?;
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

    /// A PostgreSQL that has run for a while writes over WAL files that it has; one that has just begun makes a new one every
    /// 16 MiB, for which every commit waits. So it begins with enough of them for a measurement.
    async fn fill_wal(&self) -> Result<()> {
        self.administer(&[
            "alter system set min_wal_size = '1GB'",
            "select pg_reload_conf()",
            "create table filler as select repeat('x', 1000) from generate_series(1, 800000)",
            "drop table filler",
            "checkpoint",
        ])
        .await
    }

    /// Every measurement begins with tables that are empty and statistics that are fresh.
    async fn empty(&self) -> Result<()> {
        self.administer(&["truncate orders, outbox_log", "vacuum analyze skus", "checkpoint"])
            .await
    }

    async fn administer(&self, statements: &[&'static str]) -> Result<()> {
        let url = self.postgres.admin_url();
        let server = url
            .strip_suffix("postgres")
            .context("the URL names another database")?;
        let mut connection = PgConnection::connect(&format!("{server}commerce")).await?;
        for statement in statements {
            connection
                .execute(*statement)
                .await
                .with_context(|| format!("running {statement}"))?;
        }
        Ok(())
    }

    async fn pgbench(&mut self, name: &'static str, script: &str) -> Result<()> {
        if !self.wanted(name) {
            return Ok(());
        }
        self.empty().await?;
        let before = cpu::of_tree(self.postgres_pid()?)?;
        let load = pgbench::run(&self.postgres.url(), script, 64, self.duration, SKUS).await?;
        let postgres = cpu::of_tree(self.postgres_pid()?)?.saturating_sub(before);
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
        program: &Program,
        script: &str,
        connections: u32,
        variety: u32,
    ) -> Result<()> {
        let run = self.rows.len().to_string();
        let script = self.repository.join("e2e/bench/load").join(script);
        let arguments = [run.as_str(), &variety.to_string()];
        let warm_up = Duration::from_secs(2);
        wrk::run(
            &program.url,
            &script,
            connections,
            warm_up,
            &[&format!("warm-up-{run}"), arguments[1]],
        )
        .await?;
        let pids = [
            self.postgres_pid()?,
            program.child.id().context("the program has ended")?,
        ];
        let before = pids.map(cpu::of_tree);
        let load = wrk::run(&program.url, &script, connections, self.duration, &arguments).await?;
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

    async fn api(&self, variables: &[(&str, &str)]) -> Result<Program> {
        let address = free_address()?;
        let mut command = Command::new(self.programs.join("api"));
        command
            .arg("serve")
            .env_clear()
            .envs(self.variables())
            .envs(variables.iter().copied())
            .env("LOG_LEVEL", "warn")
            .env("HTTP_ADDR", address.to_string())
            .env("ADMIN_ADDR", free_address()?.to_string());
        Program::start(command, address, "/products").await
    }

    /// PostgreSQL writes its first process's id into its folder.
    fn postgres_pid(&self) -> Result<u32> {
        let file = self.postgres.folder().join("data/postmaster.pid");
        let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        text.lines()
            .next()
            .and_then(|line| line.parse().ok())
            .context("postmaster.pid holds no id")
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

impl Program {
    async fn start(mut command: Command, address: SocketAddr, path: &str) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("starting the program")?;
        let url = format!("http://{address}");
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(2))
            .build()?;
        let until = Instant::now() + Duration::from_secs(20);
        while !client
            .get(format!("{url}{path}"))
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            ensure!(
                Instant::now() < until,
                "the program does not answer; its log is above"
            );
            sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { child, url })
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
