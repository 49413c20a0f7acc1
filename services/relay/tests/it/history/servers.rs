//! Servers that take over from another, and that are upgraded.

use std::process::Command;

use anyhow::{Result, ensure};
use commerce_core::testing::{Durability, Postgres};
use pretty_assertions::assert_eq;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{adopt, blocked, goes_on, number, port, spend_ids};
use crate::support::{CREATED, World, eventually, readiness};

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_has_everything_takes_over_without_a_question() -> Result<()> {
    let (primary, standby) = tokio::try_join!(Postgres::start(), Postgres::start())?;
    let before = World::on_postgres(&primary).await?;
    stand_by(&primary, &standby).await?;
    let relay = before.relay().await?;
    before.commit_many(300, 100).await?;
    before.all_sent().await?;
    relay.crash().await;
    before.commit(1, CREATED).await?;
    let written: String = sqlx::query_scalar("select pg_current_wal_lsn()::text")
        .fetch_one(&before.pool)
        .await?;
    let mut admin = PgConnection::connect(&standby.admin_url()).await?;
    eventually("the standby has it all", async || {
        sqlx::query_scalar("select pg_last_wal_replay_lsn() >= $1::pg_lsn")
            .bind(&written)
            .fetch_one(&mut admin)
            .await
            .unwrap_or(false)
    })
    .await?;
    primary.kill()?;
    admin.execute("select pg_promote()").await?;
    let after = World {
        kafka: before.kafka.clone(),
        ..World::on_postgres(&standby).await?
    };
    goes_on(&after).await?;
    after.check().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_lacks_what_was_published_is_not_gone_on_with() -> Result<()> {
    let (primary, standby) = tokio::try_join!(Postgres::start(), Postgres::start())?;
    let before = World::on_postgres(&primary).await?;
    let relay = before.relay().await?;
    before.commit_many(30, 30).await?;
    before.all_sent().await?;
    stand_by(&primary, &standby).await?;
    standby.kill()?;
    before.all_sent().await?;
    for order in 100..107 {
        before.commit(order, CREATED).await?;
    }
    before.all_sent().await?;
    relay.stop().await?;
    primary.kill()?;
    standby.restart().await?;
    let mut admin = PgConnection::connect(&standby.admin_url()).await?;
    admin.execute("select pg_promote()").await?;

    let after = World {
        kafka: before.kafka.clone(),
        ..World::on_postgres(&standby).await?
    };
    let relay = after.relay().await?;
    let why = blocked(&relay).await?;
    assert!(why.contains("7 at the ends of its topics"), "{why}");
    let (done, told) = adopt(&after.url, true).await?;
    assert!(done, "{told}");
    relay.active().await?;
    relay.stop().await?;
    goes_on(&after).await
}

/// Makes `standby` one of `primary`, which is restarted.
async fn stand_by(primary: &Postgres, standby: &Postgres) -> Result<()> {
    const COPY: &str = r#"
        rm -r "$2/data"
        cp -a "$1/data" "$2/data"
        cd "$2/data"
        rm postmaster.pid
        echo "primary_conninfo = 'host=127.0.0.1 port=$3 user=postgres'" >>postgresql.auto.conf
        : >standby.signal
        chown --reference=PG_VERSION standby.signal"#;
    standby.kill()?;
    primary.kill()?;
    let copied = Command::new("sh")
        .args(["-ec", COPY, "copy"])
        .args([primary.folder(), standby.folder()])
        .arg(port(primary)?.to_string())
        .status()?;
    ensure!(copied.success(), "copying the primary");
    primary.restart().await?;
    standby.restart().await?;
    let mut admin = PgConnection::connect(&primary.admin_url()).await?;
    eventually("it follows", async || {
        sqlx::query_scalar("select exists (select from pg_stat_replication where state = 'streaming')")
            .fetch_one(&mut admin)
            .await
            .unwrap_or(false)
    })
    .await
}

/// While a primary is replaced, its address may lead to either server.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_reaches_another_server_than_the_lease_changes_nothing() -> Result<()> {
    let (old, new) = tokio::try_join!(
        Postgres::start_with(Durability::Process),
        Postgres::start_with(Durability::Process)
    )?;
    let former = World::on_postgres(&old).await?;
    spend_ids(&former, 1_000).await?;
    former.commit(1, CREATED).await?;
    let world = World::on_postgres(&new).await?;
    world.commit(2, CREATED).await?;

    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let (readers_go_to, reader) = watch::channel(port(&old)?);
    let forwarding = tokio::spawn(forward(listener, reader, port(&new)?));
    let relay = World {
        url: format!("postgres://commerce@{address}/commerce?sslmode=disable"),
        pool: world.pool.clone(),
        kafka: world.kafka.clone(),
    };
    let relay = relay.relay().await?;
    eventually("it has noticed", async || {
        let found = readiness(relay.admin).await.unwrap_or_default();
        let message = found["checks"]["postgres"]["message"]
            .as_str()
            .unwrap_or_default();
        message.contains("another server than the one that granted the lease")
    })
    .await?;
    assert_eq!(
        (world.count("NEW").await?, world.published().await?.len()),
        (1, 0)
    );

    readers_go_to.send(port(&new)?)?;
    world.all_sent().await?;
    assert_eq!(world.check().await?, 0);
    relay.stop().await?;
    forwarding.abort();
    Ok(())
}

/// Forwards connections to `port`, those that read the outbox to `reader`.
async fn forward(listener: TcpListener, reader: watch::Receiver<u16>, port: u16) -> Result<()> {
    loop {
        let (mut client, _) = listener.accept().await?;
        let reader = *reader.borrow();
        tokio::spawn(async move {
            // The first message has the application's name.
            let mut first = [0; 1_024];
            let length = client.read(&mut first).await?;
            let reads = first.windows(12).any(|name| name == b"relay-reader");
            let port = if reads { reader } else { port };
            let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
            server.write_all(&first[..length]).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_server_goes_on_although_it_has_another_identity() -> Result<()> {
    let world = World::new().await?;
    goes_on(&world).await?;
    // What pg_upgrade leaves: rows with their transactions, and another system identifier than before.
    world
        .pool
        .execute("insert into outbox_history (history_id, system_identifier) values (2, 1)")
        .await?;
    goes_on(&world).await?;
    let own = "select count(*) from outbox_history, pg_control_system() own
                where history_id = 3 and outbox_history.system_identifier = own.system_identifier";
    assert_eq!(number(&world.pool, own).await?, 1);
    Ok(())
}
