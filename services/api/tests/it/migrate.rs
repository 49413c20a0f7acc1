//! Migrating and seeding can be repeated, at the same time and over what is there.

use std::time::Duration;

use commerce_api::cli::migrate;
use commerce_core::{
    postgres,
    testing::{Postgres, shared},
};
use futures::future::join_all;
use pretty_assertions::assert_eq;
use secrecy::SecretString;

use crate::support::number;

const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_database_is_made_migrated_and_seeded_however_often_and_concurrently() {
    let server = Postgres::start().await.unwrap();
    let url = SecretString::from(server.url_of("shop"));
    let options = postgres::parse_url(&url).unwrap();
    for result in join_all((0..4).map(|_| migrate(&options, 10, 5, PATIENCE))).await {
        result.unwrap();
    }
    let pool = sqlx::PgPool::connect_with(options.clone()).await.unwrap();
    assert_eq!(
        number(&pool, "select count(*) from skus where stock = 5").await,
        10
    );
    assert_eq!(number(&pool, "select count(*) from products").await, 3);

    // What is there stays, what is missing comes, and new rows get ids of their own.
    sqlx::query("update skus set stock = 1, name = 'mine' where sku_id = 2")
        .execute(&pool)
        .await
        .unwrap();
    let add = "insert into skus (product_id, name, stock) values (1, 'added', 0) returning sku_id";
    assert_eq!(number(&pool, add).await, 11);
    migrate(&options, 20, 7, PATIENCE).await.unwrap();
    assert_eq!(number(&pool, "select count(*) from skus").await, 20);
    assert_eq!(
        number(&pool, "select count(*) from skus where stock = 7").await,
        9
    );
    assert_eq!(
        number(&pool, "select count(*) from skus where name in ('mine', 'added')").await,
        2
    );
    assert_eq!(number(&pool, add).await, 21);
    migrate(&options, 0, 0, PATIENCE).await.unwrap();
    assert_eq!(number(&pool, "select count(*) from skus").await, 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_waits_for_postgresql_but_not_for_ever() {
    let server = Postgres::start().await.unwrap();
    let options = postgres::parse_url(&SecretString::from(server.url())).unwrap();
    server.kill().unwrap();
    let error = migrate(&options, 1, 1, Duration::from_millis(300))
        .await
        .unwrap_err();
    assert!(
        error.to_string().starts_with("connecting to PostgreSQL: "),
        "{error}"
    );

    let (migrated, restarted) = tokio::join!(migrate(&options, 1, 1, PATIENCE), server.restart());
    migrated.unwrap();
    restarted.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_is_left_as_it_is_and_told_by_an_exit_code_of_its_own() {
    let database = shared().database().await.unwrap();
    let pool = database.pool();
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'of a newer version', true, '', 0)",
    )
    .execute(&pool)
    .await
    .unwrap();
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_api"))
        .args(["migrate", "--seed-skus", "3"])
        .env("DATABASE_URL", database.url())
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(i32::from(postgres::NEWER_SCHEMA)));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("the schema has a migration 9999"), "{told}");
    assert_eq!(number(&pool, "select count(*) from skus").await, 0);
}
