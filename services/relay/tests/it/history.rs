//! Databases that were restored, replaced or copied, and other ways in which time goes wrong.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use commerce_core::{
    event::header,
    testing::{Durability, Postgres},
    topics::{self, TopicSpec},
};
use futures::TryStreamExt as _;
use pretty_assertions::assert_eq;
use rdkafka::{
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer},
};
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool, postgres::PgPoolCopyExt as _,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::spawn_blocking,
};

use crate::{
    outage::{Load, ready},
    support::{CANCELLED, CREATED, PATIENCE, Running, World, eventually, insert, readiness, status},
};

/// All that is the relay's.
const TABLES: [&str; 6] = [
    "outbox_log",
    "outbox_parked",
    "outbox_history",
    "outbox_lost",
    "relay_checkpoint",
    "relay_progress",
];

/// Runs `relay adopt`: whether it succeeded, and what it said.
async fn adopt(url: &str, yes: bool) -> Result<(bool, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command.arg("adopt").args(yes.then_some("--yes"));
    command.env_clear().env("DATABASE_URL", url);
    let output = spawn_blocking(move || command.output()).await??;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text)?;
    Ok((output.status.success(), text))
}

/// Waits until the relay refuses to go on, and returns its reason.
async fn blocked(relay: &Running) -> Result<String> {
    let why = async || Some(status(relay.admin).await.ok()?["blocked"].as_str()?.to_owned());
    eventually("the relay refuses to go on", async || why().await.is_some()).await?;
    let why = why().await.context("it goes on after all")?;
    assert_eq!(status(relay.admin).await?["state"], "waiting");
    let check = readiness(relay.admin).await?["checks"]["events"].clone();
    assert_eq!(check, serde_json::json!({"ready": false, "message": why}));
    Ok(why)
}

/// A relay that publishes is not blocked.
async fn goes_on(world: &World) -> Result<()> {
    let relay = world.relay().await?;
    world.commit(77, CREATED).await?;
    world.all_sent().await?;
    relay.active().await?;
    relay.stop().await
}

async fn number(pool: &PgPool, query: &'static str) -> Result<i64> {
    Ok(sqlx::query_scalar(query).fetch_one(pool).await?)
}

/// Copies tables row by row, as a dump does.
async fn copy(from: &World, to: &World, tables: &[&str]) -> Result<()> {
    for table in tables {
        sqlx::query(AssertSqlSafe(format!("delete from {table}")))
            .execute(&to.pool)
            .await?;
        let select = format!("copy (select * from {table}) to stdout");
        let rows = from.pool.copy_out_raw(&select).await?;
        let rows: Vec<_> = rows.try_collect().await?;
        let insert = format!("copy {table} from stdin");
        let mut into = to.pool.copy_in_raw(&insert).await?;
        for chunk in rows {
            into.send(chunk).await?;
        }
        into.finish().await?;
    }
    Ok(())
}

/// Lets transaction ids go by.
async fn spend_ids(world: &World, count: u32) -> Result<()> {
    let spend = format!(
        "do $$ begin for i in 1..{count} loop perform pg_current_xact_id(); commit; end loop; end $$"
    );
    world.pool.execute(AssertSqlSafe(spend)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_gone_on_with_only_when_somebody_accepts_what_is_lost() -> Result<()> {
    let server = Postgres::start().await?;
    let world = World::on_postgres(&server).await?;
    let relay = world.relay().await?;
    world.commit_many(300, 100).await?;
    world.all_sent().await?;
    relay.stop().await?;
    // A commit that waits for the disk takes those of the relay with it, which do not.
    world
        .pool
        .execute("insert into products (name) values ('a product')")
        .await?;
    server.kill()?;
    server.back_up()?;
    server.restart().await?;

    let relay = world.relay().await?;
    for order in 500..520 {
        world.commit(order, CREATED).await?;
    }
    world.all_sent().await?;
    relay.stop().await?;
    server.kill()?;
    server.restore()?;
    server.restart().await?;

    // These take the transaction ids and outbox ids of those that are lost.
    for order in 600..605 {
        world.commit(order, CREATED).await?;
    }
    let before = world.published().await?.len();
    let relay = world.relay().await?;
    let why = blocked(&relay).await?;
    assert!(why.contains("20 at the ends of its topics"), "{why}");
    assert!(why.contains("of order 519,"), "{why}");
    assert_eq!(world.count("NEW").await?, 5);
    assert_eq!(
        world.published().await?.len(),
        before,
        "it has published something"
    );
    // New orders get other ids than the lost ones had.
    let next = number(&world.pool, "select nextval('orders_order_id_seq')").await?;
    assert_eq!(next, 1_000_520);

    let (done, told) = adopt(&world.url, false).await?;
    assert!(!done && told.contains("accept that these 20 events"), "{told}");
    assert_eq!(
        number(
            &world.pool,
            "select count(*) from outbox_lost where accepted_at is null"
        )
        .await?,
        20
    );
    assert!(status(relay.admin).await?["blocked"].is_string());
    let (done, told) = adopt(&world.url, true).await?;
    assert!(done && told.contains("Accepted 20 lost events."), "{told}");
    relay.active().await?;
    world.all_sent().await?;
    relay.stop().await?;
    let published = world.published().await?;
    for order in 600..605 {
        let key = order.to_string();
        assert!(
            published.iter().any(|message| message.key == key),
            "order {key} is lost"
        );
    }

    goes_on(&world).await?;
    let (done, told) = adopt(&world.url, false).await?;
    assert!(done && told.contains("nothing is in the way"), "{told}");
    Ok(())
}

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

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_restored_where_transaction_ids_are_lower_is_adopted_without_a_loss() -> Result<()> {
    restored_dump(3_000, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_restored_where_transaction_ids_are_higher_is_adopted_without_a_loss() -> Result<()> {
    restored_dump(0, 3_000).await
}

/// Two clusters, of which either may have handed out more transaction ids.
async fn restored_dump(there_first: u32, here_first: u32) -> Result<()> {
    let (old, new) = tokio::try_join!(
        Postgres::start_with(Durability::Process),
        Postgres::start_with(Durability::Process)
    )?;
    let there = World::on_postgres(&old).await?;
    spend_ids(&there, there_first).await?;
    let relay = there.relay().await?;
    there.commit_many(60, 6).await?;
    let mut transaction = there.pool.begin().await?;
    insert(&mut transaction, 1_000, CREATED, &"x".repeat(1_100_000)).await?;
    insert(&mut transaction, 1_000, CREATED, "").await?;
    transaction.commit().await?;
    eventually("one is parked, and one behind it", async || {
        let parked = number(&there.pool, "select count(*) from outbox_parked").await;
        parked.is_ok_and(|parked| parked == 2) && there.count("SENT").await.is_ok_and(|sent| sent == 60)
    })
    .await?;
    relay.stop().await?;
    for order in 0..6 {
        there.commit(order, CANCELLED).await?;
    }

    let mut here = World::on_postgres(&new).await?;
    here.kafka = there.kafka.clone();
    spend_ids(&here, here_first).await?;
    copy(&there, &here, &TABLES).await?;
    here.pool
        .execute("select setval('outbox_log_id', (select max(outbox_id) from outbox_log))")
        .await?;
    // What was published after the dump does not count as published in it.
    let relay = there.relay().await?;
    eventually("the rest is SENT", async || {
        there.count("SENT").await.is_ok_and(|sent| sent == 66)
    })
    .await?;
    relay.stop().await?;
    for order in 0..4 {
        here.commit(order, CREATED).await?;
    }
    // The other server's clock may have been ahead.
    here.pool
        .execute("update relay_checkpoint set updated_at = now() + interval '1 hour'")
        .await?;
    let relay = here.relay().await?;
    let why = blocked(&relay).await?;
    assert!(why.contains("copied from another PostgreSQL server"), "{why}");
    assert_eq!(here.published().await?.len(), 66);
    let (done, told) = adopt(&here.url, false).await?;
    assert!(
        !done && told.contains("publish 10 events, and take 62 for published"),
        "{told}"
    );

    // Whoever writes meanwhile is waited for.
    let mut writer = here.pool.begin().await?;
    insert(&mut writer, 2, CREATED, "").await?;
    let url = here.url.clone();
    let adopting = tokio::spawn(async move { adopt(&url, true).await });
    eventually("it waits for the writer", async || {
        let waiting = "select count(*) from pg_locks where relation = 'outbox_log'::regclass and not granted";
        number(&here.pool, waiting)
            .await
            .is_ok_and(|waiting| waiting == 1)
    })
    .await?;
    writer.commit().await?;
    let (done, told) = adopting.await??;
    assert!(done && told.contains("11 events are to be published"), "{told}");

    eventually("all but the parked ones are SENT", async || {
        here.count("SENT").await.is_ok_and(|sent| sent == 71)
    })
    .await?;
    assert_eq!((here.count("FAILED").await?, here.count("NEW").await?), (1, 1));
    here.pool
        .execute("update outbox_log set payload = '{}' where length(payload::text) > 1000000")
        .await?;
    here.all_sent().await?;
    relay.stop().await?;
    // Only what was published after the dump is published again.
    assert_eq!(here.check().await?, 6);
    goes_on(&here).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_logical_replication_writes_is_left_alone_until_that_ends() -> Result<()> {
    let (old, new) = tokio::try_join!(Postgres::start(), Postgres::start_with(Durability::Process))?;
    let mut admin = PgConnection::connect(&old.admin_url()).await?;
    admin.execute("alter system set wal_level = logical").await?;
    old.restart().await?;
    let there = World::on_postgres(&old).await?;
    spend_ids(&there, 3_000).await?;
    let relay = there.relay().await?;
    there.commit_many(60, 6).await?;
    there.all_sent().await?;
    relay.stop().await?;
    let publication = "create publication events for table outbox_log with (publish = 'insert', publish_via_partition_root)";
    there.pool.execute(publication).await?;

    let mut here = World::on_postgres(&new).await?;
    here.kafka = there.kafka.clone();
    let superuser = format!("{}commerce", new.admin_url().trim_end_matches("postgres"));
    let mut superuser = PgConnection::connect(&superuser).await?;
    let subscribe = format!(
        "create subscription copies connection 'host=127.0.0.1 port={} user=postgres dbname=commerce'
         publication events",
        port(&old)?
    );
    superuser.execute(AssertSqlSafe(subscribe)).await?;
    there.commit(1, CANCELLED).await?;
    eventually("all rows have come over", async || {
        let rows = number(&here.pool, "select count(*) from outbox_log").await;
        rows.is_ok_and(|rows| rows == 61)
    })
    .await?;
    let relay = here.relay().await?;
    let why = blocked(&relay).await?;
    assert!(why.contains("(subscription copies)"), "{why}");
    let (done, told) = adopt(&here.url, true).await?;
    assert!(!done && told.contains("drop the subscription"), "{told}");

    superuser.execute("drop subscription copies").await?;
    eventually("only the ids are in the way", async || {
        let status = status(relay.admin).await.unwrap_or_default();
        let why = status["blocked"].as_str().unwrap_or_default();
        why.contains("the outbox has rows of transaction") && !why.contains("subscription")
    })
    .await?;
    let (done, _) = adopt(&here.url, true).await?;
    ensure!(done, "not adopted");
    here.all_sent().await?;
    relay.stop().await?;
    assert_eq!(
        here.check().await?,
        60,
        "this database can't know what was published from the other"
    );
    // The sequence had stayed behind.
    assert!(here.commit(1, CREATED).await? > 61);
    goes_on(&here).await
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_with_the_events_of_another_database_are_not_published_to_unasked() -> Result<()> {
    let first = World::new().await?;
    let relay = first.relay().await?;
    first.commit_many(5, 5).await?;
    first.all_sent().await?;
    relay.stop().await?;
    let mut second = World::new().await?;
    second.kafka = first.kafka.clone();
    let relay = second.relay().await?;
    let why = blocked(&relay).await?;
    assert!(why.contains("5 at the ends of its topics"), "{why}");
    // It goes on by itself when the reason has gone.
    topics::delete(&second.kafka).await?;
    relay.active().await?;
    assert_eq!(number(&second.pool, "select count(*) from outbox_lost").await?, 0);
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_has_dropped_is_not_lost_and_days_to_come_are_not_dropped() -> Result<()> {
    const AT: &str = "
        insert into outbox_log (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload,
                                correlation_id, created_at)
        values (gen_random_uuid(), 'order', '1', 1, 'order.created', '{}', 'c', now() + make_interval(days => $1))";
    let world = World::new().await?;
    world
        .pool
        .execute(
            "select outbox_log_add_partition((now() at time zone 'UTC')::date - day) from unnest('{2, 5}'::integer[]) day",
        )
        .await?;
    let relay = world.relay().await?;
    for days in [-5, -2, 0, 30] {
        sqlx::query(AT).bind(days).execute(&world.pool).await?;
    }
    world.all_sent().await?;
    relay.stop().await?;
    // An older one stays, as where an event in it is parked.
    world
        .pool
        .execute(
            "do $$ begin
                 execute format('drop table outbox_log_%s', to_char((now() at time zone 'UTC')::date - 2, 'YYYYMMDD'));
             end $$",
        )
        .await?;
    let relay = world.relay().await?;
    relay.active().await?;
    relay.stop().await?;
    // A late row may bring the day back, but not the others.
    world
        .pool
        .execute("select outbox_log_add_partition((now() at time zone 'UTC')::date - 2)")
        .await?;
    let mut config = world.config()?;
    config.outbox_retention = Duration::from_hours(1);
    let relay = world.relay_with(config.clone()).await?;
    relay.active().await?;
    relay.stop().await?;
    world.pool.execute("delete from outbox_log_default").await?;
    let relay = world.relay_with(config).await?;
    let why = blocked(&relay).await?;
    assert!(why.contains("1 at the ends of its topics"), "{why}");
    relay.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_written_to_the_topics_says_nothing() -> Result<()> {
    let world = World::new().await?;
    let producer: ThreadedProducer<DefaultProducerContext> = world.kafka.client("test").create()?;
    let topic = world.kafka.topic(CREATED);
    let time = "2999-01-01T00:00:00.000000Z";
    let complete = [
        (header::SOURCE, "/commerce-pipeline/orders"),
        (header::ID, "0194a7c3-0a54-7c63-9f1f-5f6f2f1a2b3c"),
        (header::SUBJECT, "1"),
        (header::TIME, time),
        (header::OUTBOX_POSITION, "7:1"),
    ];
    let send = |headers: &[(&str, &str)]| {
        let headers = headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(*value),
            })
        });
        let record = BaseRecord::to(&topic).key("1").payload("{}").headers(headers);
        producer.send(record).map_err(|(error, _)| error)?;
        producer.flush(PATIENCE)
    };
    send(&[])?;
    send(&complete[..4])?;
    let mut foreign = complete;
    foreign[0].1 = "/another/pipeline";
    send(&foreign)?;
    goes_on(&world).await?;
    send(&complete)?;
    let relay = world.relay().await?;
    let why = blocked(&relay).await?;
    assert!(
        why.contains("event 0194a7c3-0a54-7c63-9f1f-5f6f2f1a2b3c of order 1,"),
        "{why}"
    );
    relay.stop().await
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

fn port(server: &Postgres) -> Result<u16> {
    let url = server.url();
    Ok(url.rsplit([':', '/']).nth(1).context("no port")?.parse()?)
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

#[tokio::test(flavor = "multi_thread")]
async fn frozen_rows_keep_their_transactions() -> Result<()> {
    let world = World::new().await?;
    for round in 1..=3 {
        world.commit_many(10, 10).await?;
        world
            .pool
            .execute("vacuum (freeze) outbox_log, relay_checkpoint, outbox_history")
            .await?;
        assert_eq!(world.count("NEW").await?, 10, "round {round}");
        let relay = world.relay().await?;
        world.all_sent().await?;
        relay.stop().await?;
        world
            .pool
            .execute("vacuum (freeze) outbox_log, relay_checkpoint, outbox_history")
            .await?;
    }
    assert_eq!(world.check().await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_holds_nothing_up() -> Result<()> {
    const AT: &str = "
        insert into outbox_log (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload,
                                correlation_id, created_at)
        values (gen_random_uuid(), 'order', '1', 1, 'order.created', '{}', 'c', now() + make_interval(hours => $1))";
    let world = World::new().await?;
    world
        .pool
        .execute("update relay_checkpoint set holder = 'gone', lease_expires_at = now() + interval '1 year'")
        .await?;
    let relay = world.relay().await?;
    relay.active().await?;
    for hours in [0, -1_000, 1_000, -1, 30, 0] {
        sqlx::query(AT).bind(hours).execute(&world.pool).await?;
        world.all_sent().await?;
    }
    relay.stop().await?;
    assert_eq!(world.check().await?, 0);
    Ok(())
}

/// `xid8` has the epoch in its upper half, in columns and in snapshots alike: there is nothing that wraps around.
#[tokio::test]
async fn windows_reach_over_the_end_of_an_epoch() -> Result<()> {
    const WINDOW: &str = "
        select array_agg(id::text order by id)
          from unnest('{4294967290, 4294967294, 4294967295, 4294967299, 4294967300, 4294967301, 4294967303}'::xid8[]) id
         where (id >= pg_snapshot_xmax($1::pg_snapshot) or id = any (array(select pg_snapshot_xip($1::pg_snapshot))))
           and pg_visible_in_snapshot(id, $2::pg_snapshot)";
    let world = World::new().await?;
    // 4294967294 was running before, 4294967300 is running now. The first one of an epoch is its fourth.
    let (previous, current) = (
        "4294967294:4294967299:4294967294",
        "4294967300:4294967302:4294967300",
    );
    let window: Vec<String> = sqlx::query_scalar(WINDOW)
        .bind(previous)
        .bind(current)
        .fetch_one(&world.pool)
        .await?;
    assert_eq!(window, ["4294967294", "4294967299", "4294967301"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_deleted_and_made_again_under_load_parks_nothing() -> Result<()> {
    let world = World::new().await?;
    let relay = world.relay().await?;
    let load = Load::start(world.pool.clone());
    eventually("events flow", async || {
        world.count("SENT").await.is_ok_and(|sent| sent > 100)
    })
    .await?;
    let admin: AdminClient<DefaultClientContext> = world.kafka.client("test").create()?;
    let topic = world.kafka.topic(CREATED);
    for result in admin.delete_topics(&[&topic], &AdminOptions::new()).await? {
        ensure!(result.is_ok(), "deleting the topic: {result:?}");
    }
    eventually("the topic is gone", async || {
        topics::partitions(&world.kafka)
            .await
            .is_ok_and(|found| !found.contains_key(&topic))
    })
    .await?;
    // Longer than librdkafka takes to be sure of it.
    let until = tokio::time::Instant::now() + Duration::from_secs(8);
    eventually("it stays away for a while", async || {
        tokio::time::Instant::now() > until
    })
    .await?;
    let spec = TopicSpec {
        partitions: 3,
        replication_factor: 1,
        config: std::collections::BTreeMap::new(),
    };
    topics::ensure(&world.kafka, &spec).await?;
    let made = number(&world.pool, "select coalesce(max(outbox_id), 0) from outbox_log").await?;
    eventually("events flow into it", async || {
        let later = "select count(*) from outbox_events where status = 'SENT' and outbox_id > $1";
        let later = sqlx::query_scalar::<_, i64>(later)
            .bind(made)
            .fetch_one(&world.pool);
        later.await.is_ok_and(|sent| sent > 100)
    })
    .await?;
    load.stop().await?;
    world.all_sent().await?;
    ready(&relay, "events", true).await?;
    assert_eq!(
        number(&world.pool, "select count(*) from outbox_parked").await?,
        0
    );
    let later = "select event_id::text from outbox_log where outbox_id > $1";
    let later: Vec<String> = sqlx::query_scalar(later)
        .bind(made)
        .fetch_all(&world.pool)
        .await?;
    let published = world.published().await?;
    let published: std::collections::HashSet<_> = published
        .iter()
        .filter_map(|message| message.headers.get(header::ID))
        .collect();
    for id in &later {
        assert!(published.contains(id), "the event {id} is lost");
    }
    relay.stop().await
}
