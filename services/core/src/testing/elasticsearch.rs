//! Elasticsearch for tests: a single node without security.

use std::{ops::Deref, path::Path, time::Duration};

use elasticsearch::{cluster::ClusterHealthParts, http::Url, params::WaitForStatus};
use futures::FutureExt as _;

use super::{
    Error, Process, distribution,
    ports::Port,
    process::{Spec, failure},
};
use crate::elasticsearch::{ElasticsearchConfig, body};

// It writes a keystore into its configuration folder, so that one belongs to the store's user. Its launcher is a JVM of
// its own, which needs next to nothing.
const SCRIPT: &str = r#"
    mkdir -p config data logs tmp && cp elasticsearch.yml jvm.options log4j2.properties config/ || exit 1
    export FOLDER="$PWD" ES_PATH_CONF="$PWD/config" ES_TMPDIR="$PWD/tmp"
    export CLI_JAVA_OPTS="-Xms4m -Xmx32m -XX:+UseSerialGC"
    exec "$STORES/elasticsearch/bin/elasticsearch"
"#;

const JVM_OPTIONS: &str = "-XX:-AlwaysPreTouch
-XX:+ExitOnOutOfMemoryError
-Djava.io.tmpdir=${ES_TMPDIR}
";

/// Starts sooner, and costs the tests less.
const QUICK: &str = "-Xms384m
-Xmx384m
-XX:+UseSerialGC
-XX:TieredStopAtLevel=1
";

/// As Elasticsearch ships it; its launcher adds what else it wants of this collector.
const OPTIMISED: &str = "-Xms2g
-Xmx2g
-XX:+UseG1GC
";

const LOG: &str = "status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %m (%c)%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
";

/// A running Elasticsearch; [`Process`] has what can be done to it.
#[derive(Debug)]
pub struct Elasticsearch {
    process: Process,
    url: Url,
    _port: Port,
}

impl Elasticsearch {
    /// Starts one on a free port, without indices. It creates none by itself.
    pub async fn start() -> Result<Self, Error> {
        Self::launch(distribution::stores().await?, QUICK, false).await
    }

    /// The same with 2 GiB of heap and mapped files, whose JVM collects garbage and compiles what runs often as in production, which
    /// takes it minutes: for measurements.
    pub async fn optimised() -> Result<Self, Error> {
        Self::launch(distribution::stores().await?, OPTIMISED, true).await
    }

    /// The same of another version, which is in the folder `elasticsearch` of `programs`.
    pub async fn optimised_of(programs: &Path) -> Result<Self, Error> {
        Self::launch(programs, OPTIMISED, true).await
    }

    async fn launch(stores: &Path, compiler_and_heap: &str, map_files: bool) -> Result<Self, Error> {
        let port = Port::claim().map_err(failure("elasticsearch", "finding a port"))?;
        let spec = Spec {
            store: "elasticsearch",
            script: SCRIPT,
            variables: vec![
                ("STORES", stores.display().to_string()),
                ("ES_JAVA_HOME", distribution::java_home()?.display().to_string()),
            ],
            files: vec![
                ("elasticsearch.yml", settings(port.number, map_files)),
                ("jvm.options", format!("{compiler_and_heap}{JVM_OPTIONS}")),
                ("log4j2.properties", LOG.to_owned()),
            ],
        };
        let url = format!("http://127.0.0.1:{}", port.number);
        let url = Url::parse(&url).map_err(|error| Error::Address(format!("{url}: {error}")))?;
        let config = ElasticsearchConfig::open(url.clone(), "");
        let process = Process::start(spec, move || health(config.clone()).boxed()).await?;
        Ok(Self {
            process,
            url,
            _port: port,
        })
    }

    /// `http://127.0.0.1:<port>/`
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }
}

impl Deref for Elasticsearch {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// The transport port is any free one: nobody joins this node. Disk watermarks would make indices read-only on a
/// machine whose disk is rather full.
fn settings(port: u16, map_files: bool) -> String {
    format!(
        "cluster.name: tests
node.name: tests
discovery.type: single-node
network.host: 127.0.0.1
http.port: {port}
transport.port: 0
path.data: ${{FOLDER}}/data
path.logs: ${{FOLDER}}/logs
xpack.security.enabled: false
node.processors: 2
node.store.allow_mmap: {map_files}
action.auto_create_index: false
cluster.routing.allocation.disk.threshold_enabled: false
"
    )
}

/// The configuration of a node with TLS and logins.
pub(super) fn secure_files(port: u16, client_certificates: bool) -> Vec<(&'static str, String)> {
    let asked = if client_certificates { "required" } else { "none" };
    let security = format!(
        "xpack.security.enabled: true
xpack.security.transport.ssl.enabled: false
xpack.security.http.ssl.enabled: true
xpack.security.http.ssl.certificate: server.crt
xpack.security.http.ssl.key: server.key
xpack.security.http.ssl.certificate_authorities: [ca.crt]
xpack.security.http.ssl.client_authentication: {asked}"
    );
    let settings = settings(port, false).replace("xpack.security.enabled: false", &security);
    // Its index of built-in roles needs modules that are not here, and nobody asks for it.
    let options = "-Des.queryable_built_in_roles_enabled=false\n";
    vec![
        ("elasticsearch.yml", settings),
        ("jvm.options", format!("{QUICK}{JVM_OPTIONS}{options}")),
        ("log4j2.properties", LOG.to_owned()),
    ]
}

async fn health(config: ElasticsearchConfig) -> Result<(), String> {
    let client = config
        .client(Duration::from_secs(5))
        .map_err(|error| error.to_string())?;
    let cluster = client.cluster();
    // After a restart, 200 and yellow also says that the indices' primaries are there.
    let ask = cluster
        .health(ClusterHealthParts::None)
        .wait_for_status(WaitForStatus::Yellow)
        .timeout("4s")
        .send();
    body("report its health", ask.await)
        .await
        .map(drop)
        .map_err(|error| error.to_string())
}
