//! The OpenAPI document is valid, and a fuzzer that reads it finds no answer that is not in it.

use std::{process::Stdio, time::Duration};

use commerce_core::testing::schemathesis;
use serde_json::json;
use tokio::{process::Command, time::timeout};

use crate::{
    search::index,
    support::{Api, catalogue, config, orders_index},
};

/// How long the fuzzer may take on a busy machine; alone it takes a quarter of this.
const PATIENCE: Duration = Duration::from_mins(4);

/// The fuzzer's files, in a folder where it may leave what it likes.
const FILES: [(&str, &str); 2] = [
    ("schemathesis.toml", include_str!("../fuzz/schemathesis.toml")),
    ("hooks.py", include_str!("../fuzz/hooks.py")),
];

/// Runs a program of the fuzzer's environment; what it says where it does not succeed.
async fn python(arguments: &[&str]) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in FILES {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let mut command = Command::new(schemathesis().await.unwrap());
    command
        .args(arguments)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(PATIENCE, command.output())
        .await
        .map_err(|_| format!("{arguments:?} did not end within {} s", PATIENCE.as_secs()))?
        .unwrap();
    if output.status.success() {
        return Ok(());
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Err(format!(
        "{}: {}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    ))
}

#[tokio::test]
async fn the_document_is_valid_openapi() {
    let file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    std::fs::write(
        file.path(),
        commerce_api::openapi::document(true).to_json().unwrap(),
    )
    .unwrap();
    let checked = python(&["-m", "openapi_spec_validator", file.path().to_str().unwrap()]).await;
    checked.unwrap_or_else(|problem| panic!("{problem}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fuzzer_finds_no_failure_and_no_answer_that_is_not_documented() {
    let database = catalogue().await;
    let stores = orders_index().await;
    index(&stores, 1..=5).await;
    let mut config = config(&database).await;
    config.elasticsearch = stores;
    let api = Api::start(config).await;
    let placed = api.order(&json!({"skuId": 1, "quantity": 1})).await;
    assert_eq!(placed.status, 200, "{placed:?}");
    let fuzzed = python(&[
        "-c",
        "from schemathesis.cli import schemathesis; schemathesis()",
        "--config-file",
        "schemathesis.toml",
        "--no-color",
        "run",
        &format!("{}/openapi.json", api.base),
    ])
    .await;
    fuzzed.unwrap_or_else(|problem| panic!("{problem}"));
    api.stop().await;
}
