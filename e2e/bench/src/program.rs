//! Programs that are measured: processes of their own, killed when dropped.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{Instant, sleep},
};

/// A process under test, killed when dropped.
pub struct Program {
    child: Child,
    id: u32,
}

/// One of the project's programs, to be configured by environment variables alone. It must have been built beside this one.
pub fn beside(name: &str) -> Result<Command> {
    let own = std::env::current_exe().context("finding this program's own path")?;
    let mut command = Command::new(own.with_file_name(name));
    command.env_clear();
    Ok(command)
}

/// An address that nobody listens on now.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

impl Program {
    pub fn start(mut command: Command) -> Result<Self> {
        let child = command
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", command.as_std().get_program().display()))?;
        let id = child.id().context("a process that has just begun has no id")?;
        Ok(Self { child, id })
    }

    /// Waits until it answers a GET of `url` with success.
    pub async fn answers(&mut self, url: &str) -> Result<()> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(2))
            .build()?;
        let until = Instant::now() + Duration::from_secs(20);
        while !client
            .get(url)
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            self.runs()?;
            ensure!(
                Instant::now() < until,
                "{url} is not answered; the program's log is above"
            );
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    /// An error where it has ended.
    pub fn runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("the program has ended, {status}; its log is above"),
            None => Ok(()),
        }
    }

    /// Its standard input and output, where the command made pipes of them.
    pub fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        self.child.stdin.take().zip(self.child.stdout.take())
    }

    /// The most memory that it has had resident so far, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.id);
        let status = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let kilobytes: Option<u64> = status.lines().find_map(|line| {
            line.strip_prefix("VmHWM:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        });
        Ok(kilobytes.with_context(|| format!("{path} has no VmHWM"))? * 1024)
    }

    /// Asks it to end (SIGTERM), and waits until it has.
    pub async fn stop(mut self) -> Result<()> {
        let asked = Command::new("kill").arg(self.id.to_string()).status().await;
        ensure!(asked.context("running kill")?.success(), "stopping the program");
        self.child.wait().await?;
        Ok(())
    }
}
