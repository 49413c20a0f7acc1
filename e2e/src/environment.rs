//! The tools, addresses and folders that `make up` leaves behind, and how commands are run with them.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use commerce_core::config::Env;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

/// Longest time that a command may take which says nothing else itself.
const COMMAND_BOUND: Duration = Duration::from_mins(5);

/// What the shell library of the cluster scripts knows, so that it is said in one place only.
const ASK: &str =
    r#". "$0" && printf '%s\n' "$ROOT" "$CACHE/kubeconfig" "$STATE/images" "$PATH" "$HTTP_PORT" "$CLUSTER""#;

/// Where things are on this machine.
#[derive(Debug, Clone)]
pub struct Environment {
    pub repository: PathBuf,
    /// `KUBECONFIG` where it is set, else the one of the cluster that `make up` made.
    pub kubeconfig: String,
    /// The port of 127.0.0.1 that the cluster's ingress answers on.
    pub http_port: u16,
    /// Lists the images that were made and loaded.
    images: PathBuf,
    /// The name of the kind cluster.
    name: String,
    /// `PATH` with the cache's tools before those of the machine.
    path: String,
}

impl Environment {
    /// Asks the scripts in `e2e/cluster`.
    pub async fn find() -> Result<Self> {
        let library = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/lib.sh");
        let answer = Command::new("bash")
            .args(["-c", ASK, library])
            .stdin(Stdio::null())
            .output()
            .await;
        let answer = answer.with_context(|| format!("asking {library} for the cluster's addresses"))?;
        let complaint = String::from_utf8_lossy(&answer.stderr);
        ensure!(
            answer.status.success(),
            "asking {library} for the cluster's addresses: {complaint}"
        );
        let lines = String::from_utf8(answer.stdout).context("reading what lib.sh printed")?;
        let lines: Vec<&str> = lines.lines().collect();
        let [repository, kubeconfig, images, path, port, name] = lines[..] else {
            bail!("{library} printed {lines:?} where six lines were expected");
        };
        let own = Env::from_process().optional_text("KUBECONFIG");
        Ok(Self {
            repository: repository.into(),
            kubeconfig: own.unwrap_or_else(|| kubeconfig.to_owned()),
            http_port: port
                .parse()
                .with_context(|| format!("HTTP_PORT is {port:?}; it takes a port number"))?,
            images: images.into(),
            name: name.to_owned(),
            path: path.to_owned(),
        })
    }

    /// The chart of that name.
    #[must_use]
    pub fn chart(&self, name: &str) -> String {
        self.repository
            .join("charts")
            .join(name)
            .to_string_lossy()
            .into_owned()
    }

    /// Repository and tag of the image `commerce.local/<name>` that was made for this cluster.
    pub fn image(&self, name: &str) -> Result<(String, String)> {
        let list = std::fs::read_to_string(&self.images);
        let list =
            list.with_context(|| format!("reading {}, which `make images` writes", self.images.display()))?;
        list.lines()
            .filter_map(|image| image.rsplit_once(':'))
            .find(|(repository, _)| repository.rsplit('/').next() == Some(name))
            .map(|(repository, tag)| (repository.to_owned(), tag.to_owned()))
            .with_context(|| {
                format!(
                    "{} names no image {name}: run `make images`",
                    self.images.display()
                )
            })
    }

    /// A command with the cluster's tools and kubeconfig; it ends with the value that holds it.
    #[must_use]
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("PATH", &self.path)
            .env("KUBECONFIG", &self.kubeconfig);
        command.current_dir(&self.repository).kill_on_drop(true);
        command
    }

    /// Runs a command and gives what it printed. An error holds all of its output.
    pub async fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.run_with_input(program, arguments, "").await
    }

    /// The same, with `input` on its standard input.
    pub async fn run_with_input(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        let shown = format!("{program} {}", arguments.join(" "));
        let mut command = self.command(program, arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {shown}"))?;
        let mut stdin = child.stdin.take().context("the command has no standard input")?;
        let work = async {
            let write = async move {
                // A command that reads nothing closes its end; how it ends tells whether that was right.
                let _ = stdin.write_all(input.as_bytes()).await;
            };
            tokio::join!(write, child.wait_with_output()).1
        };
        let output = timeout(COMMAND_BOUND, work).await;
        let output = output.with_context(|| format!("{shown} took more than {COMMAND_BOUND:?}"))??;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{shown}: {}\n{printed}{complaint}",
            output.status
        );
        Ok(printed)
    }

    /// Runs a command on each node of the cluster.
    pub async fn on_nodes(&self, command: &[&str]) -> Result<()> {
        let nodes = self.run("kind", &["get", "nodes", "--name", &self.name]).await?;
        for node in nodes.lines() {
            self.run("docker", &[&["exec", node], command].concat()).await?;
        }
        Ok(())
    }

    /// Gives an image on the nodes a second name.
    pub async fn tag_image(&self, image: &str, name: &str) -> Result<()> {
        let tag = ["ctr", "-n", "k8s.io", "images", "tag", "--force", image, name];
        self.on_nodes(&tag).await
    }

    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run("kubectl", arguments).await
    }

    pub async fn helm(&self, arguments: &[&str]) -> Result<String> {
        self.run("helm", arguments).await
    }
}
