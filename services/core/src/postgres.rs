//! How to reach PostgreSQL, and the schema's migrations.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    ConnectOptions as _, Connection as _, Executor as _, PgConnection, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};

use crate::{
    config::Env,
    tls::{Tls, variables},
};

/// The schema, forward only. Running it again, at the same time from several places, or while the previous version
/// serves, is safe (sqlx holds an advisory lock).
pub static MIGRATOR: Migrator = sqlx::migrate!();

const ACCEPTED: &str = "a PostgreSQL URI such as postgres://user:password@host:5432/database";
pub const DEFAULT_PORT: u16 = 5432;
/// Exit code of a migration that found a newer schema: to try again is no use.
pub const NEWER_SCHEMA: u8 = 4;
/// SQLSTATE of a database that does not exist.
pub(crate) const INVALID_CATALOG_NAME: &str = "3D000";
/// SQLSTATEs of a database that exists already: as a rule, and where somebody else creates it at this moment.
const DUPLICATE_DATABASE: [&str; 2] = ["42P04", "23505"];

/// Where PostgreSQL is and how many connections to keep at most.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    pub options: PgConnectOptions,
    pub pool_size: u32,
}

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("connecting to PostgreSQL: {0}")]
    Connect(#[source] sqlx::Error),
    #[error("creating the database {name}: {source}")]
    CreateDatabase { name: String, source: sqlx::Error },
    #[error(
        "the schema has a migration {found}, and this program knows none after {known}: a newer version has been here, and going back could harm what it wrote"
    )]
    Newer { found: i64, known: i64 },
    #[error("migrating the schema: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

impl PostgresConfig {
    /// Reads the `DATABASE_…` variables: `DATABASE_URL`, or its parts.
    pub fn from_env(env: &mut Env) -> Option<Self> {
        let pool_size = env.number("DATABASE_POOL_SIZE", 10, 1, 1_000);
        let files = Tls::from_env(env, &variables::POSTGRES);
        let tls = env.switch(variables::POSTGRES.tls, files.is_some())?;
        if files.is_some() && !tls {
            env.problem("DATABASE_CA_FILE and DATABASE_CERTIFICATE_FILE need DATABASE_TLS to be true");
        }
        let options = match env.optional_text("DATABASE_HOST") {
            None => Self::url_from_env(env),
            Some(host) => Self::parts_from_env(env, &host),
        };
        let mut options = options?;
        if tls {
            options = with_tls(options, &files.unwrap_or_default());
        }
        Some(Self {
            options,
            pool_size: pool_size?,
        })
    }

    fn url_from_env(env: &mut Env) -> Option<PgConnectOptions> {
        let url = env.secret("DATABASE_URL", ACCEPTED)?;
        let options = parse_url(&url);
        if options.is_none() {
            // The value is a secret, so the message does not repeat it.
            env.problem(format!("DATABASE_URL is not usable; it takes {ACCEPTED}"));
        }
        options
    }

    fn parts_from_env(env: &mut Env, host: &str) -> Option<PgConnectOptions> {
        if env.optional_text("DATABASE_URL").is_some() || env.optional_text("DATABASE_URL_FILE").is_some() {
            env.problem("DATABASE_URL and DATABASE_HOST are both set; one of them says where PostgreSQL is");
        }
        let port = env.number("DATABASE_PORT", DEFAULT_PORT, 1, u16::MAX);
        let database = env.text("DATABASE_NAME", "the database's name");
        let username = env.text("DATABASE_USERNAME", "the name of a PostgreSQL role");
        let password = env.optional_secret("DATABASE_PASSWORD");
        Some(options(host, port?, &database?, &username?, password.as_ref()))
    }

    /// A pool that connects when first used. Waiting for a connection ends after 3 s.
    #[must_use]
    pub fn pool(&self, application_name: &str) -> PgPool {
        PgPoolOptions::new()
            .max_connections(self.pool_size)
            .acquire_timeout(Duration::from_secs(3))
            .connect_lazy_with(self.options.clone().application_name(application_name))
    }
}

/// The options that parts stand for. A server that knows us by our certificate needs no password.
#[must_use]
pub fn options(
    host: &str,
    port: u16,
    database: &str,
    username: &str,
    password: Option<&SecretString>,
) -> PgConnectOptions {
    let options = PgConnectOptions::new_without_pgpass()
        .host(host)
        .port(port)
        .database(database)
        .username(username)
        .log_statements(log::LevelFilter::Debug);
    match password {
        Some(password) => options.password(password.expose_secret()),
        None => options,
    }
}

/// The same, encrypted, to a server whose certificate is good for its host name: `verify-full`, whatever a URI said.
#[must_use]
pub fn with_tls(options: PgConnectOptions, tls: &Tls) -> PgConnectOptions {
    let mut options = options.ssl_mode(PgSslMode::VerifyFull);
    if let Some(ca) = tls.ca() {
        options = options.ssl_root_cert_from_pem(ca.as_bytes().to_vec());
    }
    if let Some((certificate, key)) = tls.certificate() {
        options = options
            .ssl_client_cert_from_pem(certificate)
            .ssl_client_key_from_pem(key);
    }
    options
}

/// The options a PostgreSQL URI stands for; `None` where it is not one. Statements are logged at debug level only.
#[must_use]
pub fn parse_url(url: &SecretString) -> Option<PgConnectOptions> {
    let text = url.expose_secret();
    let known = text.starts_with("postgres://") || text.starts_with("postgresql://");
    let options: PgConnectOptions = known.then(|| text.parse().ok())??;
    Some(options.log_statements(log::LevelFilter::Debug))
}

/// Brings the schema up to date, creating the database first where it is missing. A schema that is newer than this program is
/// left as it is.
pub async fn migrate(options: &PgConnectOptions) -> Result<(), MigrateError> {
    let mut connection = match PgConnection::connect_with(options).await {
        Err(error) if has_code(&error, INVALID_CATALOG_NAME) => {
            create_database(options).await?;
            PgConnection::connect_with(options).await
        }
        other => other,
    }
    .map_err(MigrateError::Connect)?;
    match MIGRATOR.run(&mut connection).await {
        Err(sqlx::migrate::MigrateError::VersionMissing(found)) if found > latest_version() => {
            Err(MigrateError::Newer {
                found,
                known: latest_version(),
            })
        }
        other => Ok(other?),
    }
}

async fn create_database(options: &PgConnectOptions) -> Result<(), MigrateError> {
    let name = options
        .get_database()
        .unwrap_or(options.get_username())
        .to_owned();
    let maintenance = options.clone().database("postgres");
    let mut connection = PgConnection::connect_with(&maintenance)
        .await
        .map_err(MigrateError::Connect)?;
    let statement = format!("create database \"{}\"", name.replace('"', "\"\""));
    match connection.execute(sqlx::AssertSqlSafe(statement)).await {
        // Another replica was faster.
        Err(error) if DUPLICATE_DATABASE.iter().any(|code| has_code(&error, code)) => Ok(()),
        Err(source) => Err(MigrateError::CreateDatabase { name, source }),
        Ok(_) => Ok(()),
    }
}

/// The version of the schema as this program knows it.
#[must_use]
pub fn latest_version() -> i64 {
    MIGRATOR
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

/// The version of the schema that the database has; 0 where it has none.
pub async fn schema_version(pool: &PgPool) -> Result<i64, sqlx::Error> {
    let known: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
        .fetch_one(pool)
        .await?;
    if !known {
        return Ok(0);
    }
    sqlx::query_scalar("select coalesce(max(version), 0) from _sqlx_migrations where success")
        .fetch_one(pool)
        .await
}

/// Removes everything the migrations made, and with it every order.
pub async fn drop_schema(options: &PgConnectOptions) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    connection
        .execute(
            "drop view if exists outbox_events, stock_movements;
             drop table if exists outbox_parked, outbox_lost, outbox_history, relay_progress, relay_checkpoint, outbox_log,
                                  orders, stock_adjustments, skus, products, pipeline_owner, _sqlx_migrations;
             drop function if exists outbox_log_add_partition, skus_log_initial_stock;
             drop sequence if exists outbox_log_id;",
        )
        .await?;
    Ok(())
}

/// Whether PostgreSQL could not be reached or could not take the work, so that the same call may succeed later.
#[must_use]
pub fn is_away(error: &sqlx::Error) -> bool {
    match error {
        // A protocol error: the answer broke off in the middle of a message.
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_) => true,
        // 08: connection, 25006: a standby, 40: deadlock and the like, 53: out of resources, 57: cancelled, starting or
        // stopping. https://www.postgresql.org/docs/current/errcodes-appendix.html
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            code == "25006"
                || ["08", "40", "53", "57"]
                    .iter()
                    .any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

pub(crate) fn has_code(error: &sqlx::Error, code: &str) -> bool {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|found| found == code)
}
