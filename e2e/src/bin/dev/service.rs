//! A service as a child process that ends with this one.
//!
//! It is started by a small shell that waits at the other end of a pipe: when the pipe closes, because this process let go
//! of it or is gone, the shell sends SIGTERM. The shell and the service have a process group of their own, so that Ctrl-C
//! reaches this process alone, which then stops the services before their stores.

use std::{
    fmt,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use commerce_core::config::Env;
use tokio::{
    process::{Child, ChildStdin, Command},
    time::{sleep, timeout},
};

const HOLD: &str = r#"
    exec 3<&0
    "$@" </dev/null 3<&- & service=$!
    { cat <&3; kill "$service"; } >/dev/null 2>&1 & holder=$!
    wait "$service"; code=$?
    kill "$holder" 2>/dev/null
    exit "$code"
"#;

/// Variables of this process that its services see as well; all others are kept from them.
const PASSED_ON: [&str; 4] = ["PATH", "LOG_LEVEL", "RUST_BACKTRACE", "TMPDIR"];

/// A running service.
#[derive(Debug)]
pub struct Service {
    name: &'static str,
    /// Where it answers `/readyz`, `/metrics` and `/status`.
    admin: SocketAddr,
    child: Child,
    /// Kept apart from the child, since waiting for that would close it.
    hold: Option<ChildStdin>,
}

impl Service {
    /// Starts `<program> serve`. It logs as text to this process's output.
    pub fn start(
        name: &'static str,
        program: &Path,
        admin: SocketAddr,
        mut variables: Vec<(&'static str, String)>,
    ) -> Result<Self> {
        variables.push(("ADMIN_ADDR", admin.to_string()));
        let mut command = Command::new("sh");
        command.args(["-c", HOLD, name]).arg(program).arg("serve");
        command.stdin(Stdio::piped()).process_group(0);
        let mut child = with_environment(&mut command, &variables)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let hold = child.stdin.take();
        Ok(Self {
            name,
            admin,
            child,
            hold,
        })
    }

    /// Waits until it is ready, `patience` at most.
    pub async fn ready(&mut self, patience: Duration) -> Result<()> {
        let url = format!("http://{}/readyz", self.admin);
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(2))
            .no_proxy()
            .build()?;
        let until = Instant::now() + patience;
        loop {
            let answer = match client.get(&url).send().await {
                Ok(response) if response.status().is_success() => return Ok(()),
                Ok(response) => response.text().await.unwrap_or_default(),
                Err(_) => "nothing yet".to_owned(),
            };
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended while it started, with {status}; its log is above",
                    self.name
                );
            }
            ensure!(
                Instant::now() < until,
                "{} is not ready after {patience:?}; {url} answers: {answer}",
                self.name
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until it ends by itself, and tells how.
    pub async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => format!("{} ended with {status}; its log is above", self.name),
            Err(error) => format!("waiting for {}: {error}", self.name),
        }
    }

    /// Ends it with SIGTERM; where that takes longer than `patience`, it is left to itself.
    pub async fn stop(mut self, patience: Duration) {
        drop(self.hold.take());
        if timeout(patience, self.child.wait()).await.is_err() {
            eprintln!("{} did not end within {patience:?}", self.name);
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "  {:<14} http://{}/readyz  /metrics  /status",
            self.name, self.admin
        )
    }
}

/// Runs a program to its end.
pub async fn run(program: &Path, arguments: &[&str], variables: &[(&'static str, String)]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let status = with_environment(&mut command, variables).status().await;
    let status = status.with_context(|| format!("running {}", program.display()))?;
    ensure!(
        status.success(),
        "{} {} ended with {status}; its log is above",
        program.display(),
        arguments.join(" ")
    );
    Ok(())
}

fn with_environment<'a>(command: &'a mut Command, variables: &[(&'static str, String)]) -> &'a mut Command {
    let mut own = Env::from_process();
    command.env_clear().env("LOG_FORMAT", "text");
    for name in PASSED_ON {
        if let Some(value) = own.optional_text(name) {
            command.env(name, value);
        }
    }
    command.envs(variables.iter().map(|(name, value)| (name, value)))
}
