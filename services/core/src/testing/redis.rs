//! Redis for tests.

use std::ops::Deref;

use futures::FutureExt as _;

use super::{
    Error, Process, distribution,
    ports::Port,
    process::{Spec, failure},
};

// Each write is in the append-only file before it is answered, so a kill loses none.
const SCRIPT: &str = r#"
    export LD_LIBRARY_PATH="$STORES/redis/lib"
    exec "$STORES/redis/bin/redis-server" --bind 127.0.0.1 --port "$PORT" --save "" --appendonly yes
"#;

/// A running Redis; [`Process`] has what can be done to it.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: Port,
}

impl Redis {
    /// Starts one on a free port, with an empty data folder.
    pub async fn start() -> Result<Self, Error> {
        let stores = distribution::stores().await?;
        let port = Port::claim().map_err(failure("redis", "finding a port"))?;
        let spec = Spec {
            store: "redis",
            script: SCRIPT,
            variables: vec![
                ("STORES", stores.display().to_string()),
                ("PORT", port.number.to_string()),
            ],
            files: Vec::new(),
        };
        let url = url(&port);
        let process = Process::start(spec, move || ping(url.clone()).boxed()).await?;
        Ok(Self { process, port })
    }

    /// `redis://127.0.0.1:<port>/0`
    #[must_use]
    pub fn url(&self) -> String {
        url(&self.port)
    }
}

impl Deref for Redis {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

fn url(port: &Port) -> String {
    format!("redis://127.0.0.1:{}/0", port.number)
}

async fn ping(url: String) -> Result<(), String> {
    let ask = async {
        let mut connection = redis::Client::open(url)?
            .get_multiplexed_async_connection()
            .await?;
        redis::cmd("PING").query_async(&mut connection).await
    };
    ask.await.map_err(|error: redis::RedisError| error.to_string())
}
