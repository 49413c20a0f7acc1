//! TLS, mutual TLS and logins against real stores: the right client gets in, and every wrong one is told what to do, without a secret.

use std::time::Duration;

use anyhow::{Result, ensure};
use commerce_core::{
    admin::chain,
    elasticsearch::ElasticsearchConfig,
    index::{self, IndexSpec},
    kafka::KafkaConfig,
    postgres::PostgresConfig,
    redis::RedisConfig,
    testing::{Authority, Certificate, Clients, PASSWORD, Secure, USER},
    tls::{Names, Tls, advise, variables},
    topics::{self, TopicSpec},
};
use sqlx::{Connection as _, PgConnection};
use tokio::time::{Instant, sleep};

/// A busy machine takes its time until a store that listens also answers.
const PATIENCE: Duration = Duration::from_mins(1);
const TIMEOUT: Duration = Duration::from_secs(5);

/// The authority of a store and its clients, and everybody who is none.
struct World {
    authority: Authority,
    stranger: Authority,
    client: Certificate,
}

impl World {
    fn new() -> Result<Self> {
        let authority = Authority::new("shop")?;
        let client = authority.client(USER)?;
        let stranger = Authority::new("stranger")?;
        Ok(Self {
            authority,
            stranger,
            client,
        })
    }

    fn server(&self) -> Result<Certificate> {
        Ok(self.authority.server(&["localhost"])?)
    }

    fn elsewhere(&self) -> Result<Certificate> {
        Ok(self.authority.server(&["elsewhere.example"])?)
    }

    fn good(&self) -> Result<Tls> {
        Ok(self.authority.tls(Some(&self.client))?)
    }

    fn without_certificate(&self) -> Result<Tls> {
        Ok(self.authority.tls(None)?)
    }

    fn distrustful(&self) -> Result<Tls> {
        Ok(self.stranger.tls(Some(&self.client))?)
    }
}

/// Asks until the answer is yes.
async fn admitted(ask: impl AsyncFn() -> Result<(), String>) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while let Err(problem) = ask().await {
        ensure!(Instant::now() < until, "not admitted: {problem}");
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Asks until the answer is a no with this advice, which no store may turn into a yes meanwhile.
async fn refused(ask: impl AsyncFn() -> Result<(), String>, names: &Names, advice: &str) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let Err(problem) = ask().await else {
            anyhow::bail!("it was admitted; expected was: {advice}");
        };
        let told = advise(problem, names);
        ensure!(
            !told.contains(PASSWORD) && !told.contains("PRIVATE KEY"),
            "{told}"
        );
        if told.contains(advice) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "told was: {told}; expected was: {advice}");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn postgres(config: PostgresConfig) -> Result<(), String> {
    let connected = PgConnection::connect_with(&config.options).await;
    let mut connection = connected.map_err(|error| chain(&error))?;
    let query = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    let encrypted: bool = sqlx::query_scalar(query)
        .fetch_one(&mut connection)
        .await
        .map_err(|error| chain(&error))?;
    if encrypted {
        Ok(())
    } else {
        Err("it is not encrypted".to_owned())
    }
}

async fn redis(config: RedisConfig) -> Result<(), String> {
    let mut connection = config.connection(TIMEOUT).map_err(|error| chain(&error))?;
    redis::cmd("SET")
        .arg(config.key("kept"))
        .arg("7")
        .query_async(&mut connection)
        .await
        .map_err(|error| chain(&error))
}

async fn elasticsearch(config: ElasticsearchConfig) -> Result<(), String> {
    let client = config.client(TIMEOUT).map_err(|error| chain(&error))?;
    let found = index::active_index(&client, &config.index).await;
    found.map(drop).map_err(|error| chain(&error))
}

async fn kafka(config: KafkaConfig) -> Result<(), String> {
    let found = topics::partitions(&config).await;
    found.map(drop).map_err(|error| chain(&error))
}

#[tokio::test]
async fn postgres_over_mutual_tls() -> Result<()> {
    let world = World::new()?;
    let names = &variables::POSTGRES;
    let store = Secure::postgres(&world.authority, &world.server()?, Clients::Certificate).await?;
    let ask = |tls: Tls| {
        let config = store.postgres_config(&tls);
        move || postgres(config.clone())
    };
    admitted(async || ask(world.good().unwrap_or_default())().await).await?;
    let without = ask(world.without_certificate()?);
    refused(
        async || without().await,
        names,
        "give one in DATABASE_CERTIFICATE_FILE",
    )
    .await?;
    let distrustful = ask(world.distrustful()?);
    refused(
        async || distrustful().await,
        names,
        "signed it in DATABASE_CA_FILE",
    )
    .await?;
    let mut config = store.postgres_config(&world.good()?);
    config.options = config.options.password("wrong-hunter");
    let wrong = postgres(config).await.expect_err("a wrong password");
    ensure!(
        wrong.contains("password authentication failed") && !wrong.contains("wrong-hunter"),
        "{wrong}"
    );

    let store = Secure::postgres(&world.authority, &world.elsewhere()?, Clients::Password).await?;
    let other = store.postgres_config(&world.good()?);
    refused(
        async || postgres(other.clone()).await,
        names,
        "use a name that the certificate has in DATABASE_URL",
    )
    .await
}

#[tokio::test]
async fn redis_over_mutual_tls() -> Result<()> {
    let world = World::new()?;
    let names = &variables::REDIS;
    let store = Secure::redis(&world.authority, &world.server()?, Clients::Certificate).await?;
    let good = store.redis_config(&world.good()?)?;
    admitted(async || redis(good.clone()).await).await?;
    let without = store.redis_config(&world.without_certificate()?)?;
    refused(
        async || redis(without.clone()).await,
        names,
        "give one in REDIS_CERTIFICATE_FILE",
    )
    .await?;
    let distrustful = store.redis_config(&world.distrustful()?)?;
    refused(
        async || redis(distrustful.clone()).await,
        names,
        "signed it in REDIS_CA_FILE",
    )
    .await?;

    let store = Secure::redis(&world.authority, &world.elsewhere()?, Clients::Password).await?;
    let other = store.redis_config(&world.without_certificate()?)?;
    refused(
        async || redis(other.clone()).await,
        names,
        "use a name that the certificate has in REDIS_URL",
    )
    .await
}

#[tokio::test]
async fn elasticsearch_over_mutual_tls() -> Result<()> {
    let world = World::new()?;
    let names = &variables::ELASTICSEARCH;
    let store = Secure::elasticsearch(&world.authority, &world.server()?, Clients::Certificate).await?;
    let good = store.elasticsearch_config(&world.good()?)?;
    admitted(async || elasticsearch(good.clone()).await).await?;
    index::ensure(&good.client(TIMEOUT)?, &IndexSpec::new("orders")).await?;
    let without = store.elasticsearch_config(&world.without_certificate()?)?;
    refused(
        async || elasticsearch(without.clone()).await,
        names,
        "give one in ELASTICSEARCH_CERTIFICATE_FILE",
    )
    .await?;
    let distrustful = store.elasticsearch_config(&world.distrustful()?)?;
    refused(
        async || elasticsearch(distrustful.clone()).await,
        names,
        "signed it in ELASTICSEARCH_CA_FILE",
    )
    .await?;
    let mut wrong = good.clone();
    wrong.password = Some("wrong-hunter".into());
    let told = elasticsearch(wrong).await.expect_err("a wrong password");
    ensure!(told.contains("401") && !told.contains("wrong-hunter"), "{told}");

    let store = Secure::elasticsearch(&world.authority, &world.elsewhere()?, Clients::Password).await?;
    let other = store.elasticsearch_config(&world.without_certificate()?)?;
    refused(
        async || elasticsearch(other.clone()).await,
        names,
        "use a name that the certificate has in ELASTICSEARCH_URL",
    )
    .await
}

#[tokio::test]
async fn kafka_over_mutual_tls() -> Result<()> {
    let world = World::new()?;
    let names = &variables::KAFKA;
    let store = Secure::kafka(&world.authority, &world.server()?, Clients::Certificate).await?;
    let good = store.kafka_config(&world.good()?, None);
    admitted(async || kafka(good.clone()).await).await?;
    let spec = TopicSpec {
        partitions: 1,
        replication_factor: 1,
        config: std::collections::BTreeMap::new(),
    };
    ensure!(
        topics::ensure(&good, &spec)
            .await?
            .iter()
            .all(|topic| topic.changed)
    );
    let without = store.kafka_config(&world.without_certificate()?, None);
    refused(
        async || kafka(without.clone()).await,
        names,
        "give one in KAFKA_CERTIFICATE_FILE",
    )
    .await?;
    let distrustful = store.kafka_config(&world.distrustful()?, None);
    refused(
        async || kafka(distrustful.clone()).await,
        names,
        "signed it in KAFKA_CA_FILE",
    )
    .await
}

#[tokio::test]
async fn kafka_over_tls_with_scram() -> Result<()> {
    let world = World::new()?;
    let store = Secure::kafka(&world.authority, &world.server()?, Clients::Password).await?;
    for mechanism in ["SCRAM-SHA-512", "SCRAM-SHA-256"] {
        let good = store.kafka_config(&world.without_certificate()?, Some(mechanism));
        admitted(async || kafka(good.clone()).await).await?;
        let mut wrong = good.clone();
        if let Some(sasl) = &mut wrong.sasl {
            sasl.password = "wrong-hunter".into();
        }
        let told = kafka(wrong).await.expect_err("a wrong password");
        ensure!(
            told.contains("Authentication failed") && !told.contains("wrong-hunter"),
            "{told}"
        );
    }

    let mut plain = store.kafka_config(&world.without_certificate()?, Some("SCRAM-SHA-512"));
    plain.tls = None;
    refused(
        async || kafka(plain.clone()).await,
        &variables::KAFKA,
        "turn it on in KAFKA_SECURITY_PROTOCOL",
    )
    .await?;

    let store = Secure::kafka(&world.authority, &world.elsewhere()?, Clients::Password).await?;
    let other = store.kafka_config(&world.without_certificate()?, Some("SCRAM-SHA-512"));
    refused(
        async || kafka(other.clone()).await,
        &variables::KAFKA,
        "KAFKA_BOOTSTRAP_SERVERS",
    )
    .await
}
