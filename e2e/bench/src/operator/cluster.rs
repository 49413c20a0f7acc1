//! A Kubernetes API server and its etcd as plain processes, as `e2e/cluster` builds them for the cluster's node.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use commerce_core::testing::Authority;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use crate::{
    cpu,
    program::{Program, free_address},
    repository,
};

/// How many requests there were, by what tells them apart.
pub type Requests = BTreeMap<String, u64>;

const PATIENCE: Duration = Duration::from_mins(1);
/// Names of users, which are their tokens, too: the bench, whose requests are not held back, and the operator, whose are those of
/// a service account.
const USERS: &str = r#"bench,bench,bench,"system:masters"
operator,system:serviceaccount:default:commerce-operator,operator,"system:serviceaccounts,system:authenticated"
"#;

/// What runs; it ends with this value.
pub struct Cluster {
    pub client: Client,
    /// For the operator.
    pub kubeconfig: PathBuf,
    etcd: Program,
    server: Program,
    folder: TempDir,
}

impl Cluster {
    pub async fn start(repository: &Path) -> Result<Self> {
        let programs = repository::assembled("go-build", &["kubernetes"]).await?;
        let etcd_programs = repository::assembled("go-build", &["etcd"]).await?;
        let folder = TempDir::with_prefix("commerce-bench-").context("making a folder")?;
        let (etcd, address) = etcd(&etcd_programs, folder.path())?;
        let (server, port) = api_server(&programs, folder.path(), &address)?;
        let kubeconfig = |user: &str| kubeconfig(folder.path(), port, user);
        let (bench, operator) = (kubeconfig("bench")?, kubeconfig("operator")?);
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(bench)?, &options);
        let mut cluster = Self {
            client: Client::try_from(config.await?)?,
            kubeconfig: operator,
            etcd,
            server,
            folder,
        };
        cluster.answers().await?;
        cluster.define(repository).await?;
        Ok(cluster)
    }

    async fn answers(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let Err(error) = self.get("/readyz").await else {
                return Ok(());
            };
            let log =
                || fs::read_to_string(self.folder.path().join("kube-apiserver.log")).unwrap_or_default();
            self.server.runs().with_context(log)?;
            self.etcd.runs()?;
            ensure!(Instant::now() < until, "the API server is not ready: {error}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The kind CommercePipeline.
    async fn define(&self, repository: &Path) -> Result<()> {
        let path = repository.join("crds/commercepipelines.yaml");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let definition: CustomResourceDefinition = serde_norway::from_str(&text)?;
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &definition).await?;
        let until = Instant::now() + PATIENCE;
        while self
            .get("/apis/commerce.lab/v1alpha1/commercepipelines")
            .await
            .is_err()
        {
            ensure!(Instant::now() < until, "CommercePipelines are not served");
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn get(&self, path: &str) -> Result<String> {
        let request = http::Request::get(path).body(Vec::new())?;
        Ok(self.client.request_text(request).await?)
    }

    /// What was written, whoever did it, by verb and resource, as the API server counts it. It writes Leases of its own.
    pub async fn written(&self) -> Result<Requests> {
        let metrics = self.get("/metrics").await?;
        let written = requests(&metrics, "apiserver_request_total", |verb, resource| {
            ["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"].contains(&verb)
                && resource != "leases"
        });
        Ok(written)
    }

    /// CPU time of API server and etcd so far.
    pub fn cpu(&self) -> Result<Duration> {
        Ok(cpu::of_tree(self.server.id())? + cpu::of_tree(self.etcd.id())?)
    }
}

fn etcd(programs: &Path, folder: &Path) -> Result<(Program, String)> {
    let (client, peer) = (
        format!("http://{}", free_address()?),
        format!("http://{}", free_address()?),
    );
    let mut command = Command::new(programs.join("server"));
    command
        .arg(format!("--data-dir={}", folder.join("etcd").display()))
        .args([
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
        ])
        .args([
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
        ])
        .arg(format!("--initial-cluster=default={peer}"));
    Ok((logged(command, folder, "etcd")?, client))
}

/// With kubeadm's defaults, but that it takes tokens from a file, lets everybody in do everything, and puts no tokens into pods.
fn api_server(programs: &Path, folder: &Path, etcd: &str) -> Result<(Program, u16)> {
    let port = free_address()?.port();
    let authority = Authority::new("bench")?;
    let certificate = authority.server(&["127.0.0.1"])?;
    for (file, content) in [
        ("ca.crt", authority.pem()),
        ("tls.crt", &certificate.certificate),
        ("tls.key", &certificate.key),
        ("tokens.csv", USERS),
    ] {
        fs::write(folder.join(file), content).with_context(|| format!("writing {file}"))?;
    }
    let at = |flag: &str, file: &str| format!("--{flag}={}", folder.join(file).display());
    let mut command = Command::new(programs.join("kube-apiserver"));
    command
        .args([format!("--etcd-servers={etcd}"), format!("--secure-port={port}")])
        .args([
            "--bind-address=127.0.0.1",
            "--service-cluster-ip-range=10.96.0.0/16",
        ])
        .args([
            at("tls-cert-file", "tls.crt"),
            at("tls-private-key-file", "tls.key"),
        ])
        .args([
            at("service-account-key-file", "tls.crt"),
            at("service-account-signing-key-file", "tls.key"),
        ])
        .args([
            "--service-account-issuer=https://bench",
            "--endpoint-reconciler-type=none",
        ])
        .args([
            "--authorization-mode=AlwaysAllow",
            "--disable-admission-plugins=ServiceAccount",
        ])
        .arg(at("token-auth-file", "tokens.csv"));
    Ok((logged(command, folder, "kube-apiserver")?, port))
}

fn logged(mut command: Command, folder: &Path, name: &str) -> Result<Program> {
    let log = File::create(folder.join(format!("{name}.log")))
        .with_context(|| format!("making the log of {name}"))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Program::start(command)
}

fn kubeconfig(folder: &Path, port: u16, user: &str) -> Result<PathBuf> {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "certificate-authority": folder.join("ca.crt"),
        }}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": user}}],
        "users": [{"name": user, "user": {"token": user}}],
    });
    let path = folder.join(format!("{user}.kubeconfig"));
    fs::write(&path, config.to_string()).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// The series of a counter of requests whose verb and resource are `counted`, added up by verb and resource.
pub fn requests(metrics: &str, name: &str, counted: impl Fn(&str, &str) -> bool) -> Requests {
    let mut requests = Requests::new();
    for line in metrics.lines() {
        let parsed = || {
            let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
            let label = |name: &str| {
                let (_, rest) = labels.split_once(&format!("{name}=\""))?;
                rest.split_once('"').map(|(value, _)| value)
            };
            Some((
                label("verb")?,
                label("resource")?,
                value.trim().parse::<f64>().ok()?,
            ))
        };
        if let Some((verb, resource, value)) = parsed()
            && counted(verb, resource)
        {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            let value = value as u64;
            *requests.entry(format!("{verb} {resource}")).or_default() += value;
        }
    }
    requests
}
