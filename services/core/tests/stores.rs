//! The stores that tests run on: each starts, keeps its data over a kill, can be paused, and is gone afterwards.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpStream,
    ops::Deref,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use commerce_core::{
    elasticsearch::body,
    kafka::KafkaConfig,
    testing::{Elasticsearch, Kafka, Postgres, Process, Redis, shared},
};
use elasticsearch::{GetParts, IndexParts, indices::IndicesCreateParts};
use rdkafka::{
    Message as _,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{Consumer as _, StreamConsumer},
    producer::{FutureProducer, FutureRecord},
};
use redis::AsyncCommands as _;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};
use tokio::time::{Instant, sleep, timeout};

/// Longer than any of these stores takes to answer, shorter than anybody's patience.
const SILENCE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn postgres_keeps_committed_rows_over_a_kill_and_can_be_paused() -> Result<()> {
    let store = Postgres::start().await?;
    let mut connection = PgConnection::connect(&store.url()).await?;
    connection
        .execute("create table kept (n int); insert into kept values (7)")
        .await?;
    store.kill()?;
    assert!(connection.ping().await.is_err(), "a killed server answered");

    store.restart().await?;
    let mut connection = PgConnection::connect(&store.url()).await?;
    assert_eq!(
        connection.fetch_one("select n from kept").await?.get::<i32, _>(0),
        7
    );

    store.pause()?;
    assert!(silent(connection.ping()).await, "a paused server answered");
    store.resume()?;
    let mut connection = PgConnection::connect(&store.url()).await?;
    connection.ping().await?;
    gone_when_dropped(store)
}

#[tokio::test]
async fn kafka_keeps_acknowledged_records_over_a_kill_and_can_be_paused() -> Result<()> {
    let store = Kafka::start().await?;
    let config = KafkaConfig::plaintext(store.bootstrap(), "");
    let admin: AdminClient<DefaultClientContext> = config.client("test").create()?;
    admin
        .create_topics(
            [&NewTopic::new("kept", 1, TopicReplication::Fixed(1))],
            &AdminOptions::new(),
        )
        .await?;
    let producer: FutureProducer = config
        .client("test")
        .set("message.timeout.ms", "10000")
        .create()?;
    let record = FutureRecord::to("kept").key("7").payload("seven");
    producer
        .send(record, PATIENCE)
        .await
        .map_err(|(error, _)| error)?;
    store.kill()?;
    assert!(
        TcpStream::connect(store.bootstrap()).is_err(),
        "a killed broker accepts connections"
    );

    store.restart().await?;
    let mut client = config.client("test");
    let consumer: StreamConsumer = client
        .set("group.id", "test")
        .set("auto.offset.reset", "earliest")
        .create()?;
    consumer.subscribe(&["kept"])?;
    let record = timeout(PATIENCE, consumer.recv()).await??.detach();
    assert_eq!(record.payload(), Some("seven".as_bytes()));

    store.pause()?;
    let record = || FutureRecord::to("kept").key("8").payload("eight");
    assert!(
        silent(producer.send(record(), PATIENCE)).await,
        "a paused broker acknowledged"
    );
    store.resume()?;
    producer
        .send(record(), PATIENCE)
        .await
        .map_err(|(error, _)| error)?;
    drop((consumer, producer, admin));
    gone_when_dropped(store)
}

#[tokio::test]
async fn elasticsearch_keeps_acknowledged_documents_over_a_kill_and_can_be_paused() -> Result<()> {
    let store = Elasticsearch::start().await?;
    let client =
        commerce_core::elasticsearch::ElasticsearchConfig::open(store.url().clone(), "").client(PATIENCE)?;
    body(
        "create",
        client
            .indices()
            .create(IndicesCreateParts::Index("kept"))
            .send()
            .await,
    )
    .await?;
    let document = json!({"n": 7});
    body(
        "index",
        client
            .index(IndexParts::IndexId("kept", "7"))
            .body(&document)
            .send()
            .await,
    )
    .await?;
    store.kill()?;
    assert!(
        client.get(GetParts::IndexId("kept", "7")).send().await.is_err(),
        "a killed node answered"
    );

    store.restart().await?;
    let found = body("get", client.get(GetParts::IndexId("kept", "7")).send().await).await?;
    assert_eq!(found["_source"], document);

    store.pause()?;
    assert!(
        silent(client.get(GetParts::IndexId("kept", "7")).send()).await,
        "a paused node answered"
    );
    store.resume()?;
    body("get", client.get(GetParts::IndexId("kept", "7")).send().await).await?;
    gone_when_dropped(store)
}

#[tokio::test]
async fn redis_keeps_answered_writes_over_a_kill_and_can_be_paused() -> Result<()> {
    let store = Redis::start().await?;
    let client = redis::Client::open(store.url())?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let () = connection.set("kept", 7).await?;
    store.kill()?;
    assert!(
        client.get_multiplexed_async_connection().await.is_err(),
        "a killed server answered"
    );

    store.restart().await?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    assert_eq!(connection.get::<_, i32>("kept").await?, 7);

    store.pause()?;
    assert!(
        silent(connection.get::<_, i32>("kept")).await,
        "a paused server answered"
    );
    store.resume()?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    assert_eq!(connection.get::<_, i32>("kept").await?, 7);
    gone_when_dropped(store)
}

#[tokio::test]
async fn each_caller_of_the_shared_stores_has_a_corner_of_its_own() -> Result<()> {
    let (one, other) = (shared().database().await?, shared().database().await?);
    assert_ne!(one.url(), other.url());
    let insert = "insert into products (name) values ('only here')";
    one.pool().execute(insert).await?;
    let count: i64 = sqlx::query_scalar("select count(*) from products")
        .fetch_one(&other.pool())
        .await?;
    assert_eq!(count, 0);

    let (one, other) = (shared().redis_config().await?, shared().redis_config().await?);
    assert_ne!(one.key_prefix, other.key_prefix);
    Ok(())
}

/// A test that is killed runs no destructor; its stores must end all the same. This test runs `hold_a_store` below in a
/// process of its own and kills that.
#[tokio::test]
async fn stores_end_with_a_killed_test_process() -> Result<()> {
    let mut holder = Command::new(std::env::current_exe()?)
        .args(["--ignored", "--exact", "hold_a_store", "--nocapture"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let output = BufReader::new(holder.stdout.take().context("the holder has no output")?);
    let line = output
        .lines()
        .map_while(Result::ok)
        .find(|line| line.contains("holding "));
    let folder = line
        .as_deref()
        .and_then(|line| line.split("holding ").nth(1))
        .context("no store was started")?;
    assert!(Path::new(folder).exists());
    holder.kill()?;
    holder.wait()?;
    folder_gone(Path::new(folder)).await
}

#[tokio::test]
#[ignore = "run by stores_end_with_a_killed_test_process"]
async fn hold_a_store() -> Result<()> {
    let store = Redis::start().await?;
    println!("holding {}", store.folder().display());
    std::future::pending().await
}

/// Whether a call gets no answer; clients may have a timeout of their own.
async fn silent<T, E>(call: impl Future<Output = Result<T, E>>) -> bool {
    !matches!(timeout(SILENCE, call).await, Ok(Ok(_)))
}

/// Drops the store and waits until nothing of it is left.
fn gone_when_dropped<S: Deref<Target = Process>>(store: S) -> Result<()> {
    let folder = store.folder().to_owned();
    anyhow::ensure!(
        !processes_in(&folder)?.is_empty(),
        "the store has no process that can be recognised"
    );
    drop(store);
    anyhow::ensure!(!folder.exists(), "{} is still there", folder.display());
    let left = processes_in(&folder)?;
    anyhow::ensure!(left.is_empty(), "processes are left: {left:?}");
    Ok(())
}

/// The processes that work in a folder or below it.
fn processes_in(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        // Processes come and go while this looks.
        let Ok(working) = std::fs::read_link(path.join("cwd")) else {
            continue;
        };
        if working.starts_with(folder) {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

async fn folder_gone(folder: &Path) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while folder.exists() {
        anyhow::ensure!(Instant::now() < until, "{} is still there", folder.display());
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
