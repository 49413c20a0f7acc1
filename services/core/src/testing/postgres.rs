//! PostgreSQL for tests.

use std::{io, ops::Deref, process::Command};

use futures::FutureExt as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::{
    Error, Process, distribution,
    ports::Port,
    process::{Spec, failure},
};

// initdb works in a folder of another name, so that one which was killed leaves nothing that looks complete.
const SCRIPT: &str = r#"
    bin="$STORES/postgres/bin"
    if [ ! -d data ]; then
        rm -rf making
        "$bin/initdb" -D making -U postgres -A trust -E UTF8 --locale=C --no-sync >/dev/null && mv making data || exit 1
    fi
    exec "$bin/postgres" -D data -p "$PORT" -k "" -c listen_addresses=127.0.0.1 -c max_connections=300 -c fsync="$FSYNC"
"#;

/// The role that services connect as: it owns its databases and may create more, and is no superuser.
const ROLE: &str = "commerce";

/// Whether PostgreSQL waits for the disk.
///
/// A kill of its processes loses nothing either way, since what was written stays in the kernel; only a crash of the
/// machine would. So tests that share a server use the fast way, and measurements the durable one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// As in production.
    Full,
    /// `fsync = off`.
    Process,
}

/// A running PostgreSQL; [`Process`] has what can be done to it.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    port: Port,
}

impl Postgres {
    /// Starts one on a free port, with an empty database `commerce`; as durable as in production.
    pub async fn start() -> Result<Self, Error> {
        Self::start_with(Durability::Full).await
    }

    /// Starts one on a free port, with an empty database `commerce`.
    pub async fn start_with(durability: Durability) -> Result<Self, Error> {
        let stores = distribution::stores().await?;
        let port = Port::claim().map_err(failure("postgres", "finding a port"))?;
        let fsync = if durability == Durability::Full {
            "on"
        } else {
            "off"
        };
        let spec = Spec {
            store: "postgres",
            script: SCRIPT,
            variables: vec![
                ("STORES", stores.display().to_string()),
                ("PORT", port.number.to_string()),
                ("FSYNC", fsync.to_owned()),
            ],
            files: Vec::new(),
        };
        let url = url(&port, "postgres", "postgres");
        let process = Process::start(spec, move || ping(url.clone()).boxed()).await?;
        let postgres = Self { process, port };
        postgres
            .admin(format!("create role {ROLE} login createdb"))
            .await?;
        postgres
            .admin(format!("create database {ROLE} owner {ROLE}"))
            .await?;
        Ok(postgres)
    }

    /// The URL of the database `commerce`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of(ROLE)
    }

    /// The URL of a database, as a role that may create databases but is no superuser.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        url(&self.port, ROLE, database)
    }

    /// The URL of the database `postgres` as a superuser.
    #[must_use]
    pub fn admin_url(&self) -> String {
        url(&self.port, "postgres", "postgres")
    }

    /// Copies the data of a server that is killed, in place of an earlier copy.
    pub fn back_up(&self) -> Result<(), Error> {
        self.copy("data", "backup").map_err(failure("postgres", "backup"))
    }

    /// Sets a server that is killed back to its last backup.
    pub fn restore(&self) -> Result<(), Error> {
        self.copy("backup", "data")
            .map_err(failure("postgres", "restoring"))
    }

    fn copy(&self, from: &str, to: &str) -> io::Result<()> {
        let copied = Command::new("sh")
            .args(["-c", r#"rm -rf "$2" && cp -a "$1" "$2""#, "copy", from, to])
            .current_dir(self.folder())
            .status()?;
        if copied.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("copying {from} to {to}: {copied}")))
        }
    }

    /// Runs one statement as a superuser.
    pub(super) async fn admin(&self, statement: String) -> Result<(), sqlx::Error> {
        let mut connection = PgConnection::connect(&self.admin_url()).await?;
        connection.execute(AssertSqlSafe(statement)).await?;
        connection.close().await
    }
}

impl Deref for Postgres {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

fn url(port: &Port, user: &str, database: &str) -> String {
    format!("postgres://{user}@127.0.0.1:{}/{database}", port.number)
}

async fn ping(url: String) -> Result<(), String> {
    let ask = async {
        let mut connection = PgConnection::connect(&url).await?;
        connection.ping().await?;
        connection.close().await
    };
    ask.await.map_err(|error: sqlx::Error| error.to_string())
}
