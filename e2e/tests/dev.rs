//! `make dev`: a pipeline of plain processes takes an order, finds it, cancels it, and leaves nothing behind.
//!
//! The services' programs are those that were built last, see `dev`'s own message where they are missing.

use std::{fs::Permissions, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::{Instant, sleep, timeout},
};

const UP: Duration = Duration::from_mins(3);
const SEARCHABLE: Duration = Duration::from_secs(10);
const DOWN: Duration = Duration::from_secs(30);

#[tokio::test]
async fn an_order_is_placed_found_and_cancelled_and_nothing_is_left_behind() -> Result<()> {
    let folder = tempfile::tempdir()?;
    open_to_all(folder.path()).await?;
    let mut dev = Command::new(env!("CARGO_BIN_EXE_dev"))
        .args(["--port", "0"])
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(dev.stdout.take().context("dev has no output")?).lines();
    let api = timeout(UP, address(&mut lines))
        .await
        .context("dev is not up in time")??;
    // It goes on logging; nobody must wait for a reader.
    let drain = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });

    let id = place_and_find(&api).await?;
    cancel_and_follow(&api, &id).await?;

    interrupt(&dev).await?;
    let status = timeout(DOWN, dev.wait()).await.context("dev does not end")??;
    ensure!(status.success(), "dev ended with {status}");
    timeout(DOWN, drain)
        .await
        .context("a service outlives dev and holds its output")??;
    let stores = std::fs::read_dir(folder.path())?
        .filter_map(Result::ok)
        .map(|entry| entry.file_name());
    let left: Vec<_> = stores
        .filter(|name| !name.to_string_lossy().starts_with("commerce-ports-"))
        .collect();
    ensure!(left.is_empty(), "folders are left: {left:?}");
    ensure!(reqwest::get(&api).await.is_err(), "the API still answers");
    Ok(())
}

/// The API's address, from the lines that `dev` prints when everything is up.
async fn address(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<String> {
    let mut printed = Vec::new();
    while let Some(line) = lines.next_line().await? {
        if let Some(addresses) = line.strip_prefix("The API:") {
            let first = addresses
                .split_whitespace()
                .next()
                .context("no address follows")?;
            return Ok(first.trim_end_matches("/orders").to_owned());
        }
        printed.push(line);
    }
    bail!("dev ended; it printed:\n{}", printed.join("\n"))
}

/// Gives the order's id.
async fn place_and_find(api: &str) -> Result<String> {
    let client = reqwest::Client::new();
    let order = json!({"skuId": 1, "quantity": 2, "userId": "ada"});
    let response = client
        .post(format!("{api}/orders"))
        .json(&order)
        .send()
        .await?
        .error_for_status()?;
    let placed: Value = response.json().await?;
    let until = Instant::now() + SEARCHABLE;
    loop {
        let found = client
            .get(format!("{api}/search/orders?userId=ada"))
            .send()
            .await?;
        let found: Value = found.error_for_status()?.json().await?;
        if found[0]["orderId"] == placed["orderId"] {
            let id = placed["orderId"].as_str().context("orderId is no text")?;
            return Ok(id.to_owned());
        }
        ensure!(
            Instant::now() < until,
            "{placed} is not found; search answers {found}"
        );
        sleep(Duration::from_millis(50)).await;
    }
}

/// Its event takes the same way, and what is told about that comes from every part of the pipeline.
async fn cancel_and_follow(api: &str, id: &str) -> Result<()> {
    let client = reqwest::Client::new();
    let order = format!("{api}/orders/{id}");
    let response = client.post(format!("{order}/cancel")).send().await?;
    let cancelled: Value = response.error_for_status()?.json().await?;
    ensure!(cancelled["status"] == "CANCELLED", "it is {cancelled}");
    let until = Instant::now() + SEARCHABLE;
    let timeline = loop {
        let timeline = client.get(format!("{order}/timeline")).send().await?;
        let timeline: Value = timeline.error_for_status()?.json().await?;
        let stages = timeline["stages"].as_array().context("there are no stages")?;
        if stages.iter().all(|stage| stage["state"] == "DONE") {
            break timeline;
        }
        ensure!(
            Instant::now() < until,
            "the cancellation is not found: {timeline}"
        );
        sleep(Duration::from_millis(50)).await;
    };
    let published = &timeline["stages"][2];
    ensure!(
        published["topic"]
            .as_str()
            .is_some_and(|topic| topic.ends_with("order.cancelled"))
            && published["offset"] == 0,
        "it was published at {published}"
    );
    let found = client
        .get(format!("{api}/search/orders?status=CANCELLED"))
        .send()
        .await?;
    let found: Value = found.error_for_status()?.json().await?;
    ensure!(found[0]["orderId"] == id, "a search finds {found}");
    Ok(())
}

/// What Ctrl-C does.
async fn interrupt(process: &Child) -> Result<()> {
    let id = process.id().context("dev has ended already")?.to_string();
    let status = Command::new("kill").args(["-INT", &id]).status().await?;
    ensure!(status.success(), "kill ended with {status}");
    Ok(())
}

/// The stores may run as another user, who makes no folders here but has to reach their own.
async fn open_to_all(folder: &Path) -> Result<()> {
    tokio::fs::set_permissions(folder, Permissions::from_mode(0o777)).await?;
    Ok(())
}
