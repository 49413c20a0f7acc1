//! The stores with TLS and logins, as in production: every connection is encrypted, and every client proves who it is.

use futures::FutureExt as _;
use secrecy::SecretString;
use tokio::net::TcpStream;
use url::Url;

use super::{
    Authority, Certificate, Error, Process, distribution,
    ports::Port,
    process::{Spec, failure},
};
use crate::{
    elasticsearch::ElasticsearchConfig,
    kafka::{KafkaConfig, Sasl},
    postgres::{self, PostgresConfig},
    redis::{self, RedisConfig},
    tls::Tls,
};

/// The user of every store. It is the role that owns the database, and the client certificate's common name.
pub const USER: &str = "commerce";
/// The user's password at every store. Nothing but a Secret or a mounted file may show it.
pub const PASSWORD: &str = "hunter2-is-secret";
/// Where the stores are: their certificates are for this name, and not for the address.
pub const HOST: &str = "localhost";

const POSTGRES: &str = r#"
    bin="$STORES/postgres/bin"
    if [ ! -d data ]; then
        rm -rf making
        "$bin/initdb" -D making -U commerce --pwfile=password -A scram-sha-256 -E UTF8 --locale=C --no-sync >/dev/null || exit 1
        echo "create database commerce" | "$bin/postgres" --single -D making postgres >/dev/null || exit 1
        cp server.key making/ && chmod 600 making/server.key && mv making data || exit 1
    fi
    exec "$bin/postgres" -D data -p "$PORT" -k "" -c listen_addresses=127.0.0.1 -c fsync=off -c hba_file="$PWD/pg_hba.conf" \
        -c ssl=on -c ssl_cert_file="$PWD/server.crt" -c ssl_key_file=server.key -c ssl_ca_file="$PWD/ca.crt"
"#;

const REDIS: &str = r#"
    export LD_LIBRARY_PATH="$STORES/redis/lib"
    exec "$STORES/redis/bin/redis-server" redis.conf
"#;

// The users of SCRAM are made when the folder is formatted: a cluster has to know some before anybody can log in.
const KAFKA: &str = r#"
    java() { "$JAVA_HOME/bin/java" -Xms64m -Xmx320m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
        -Dlog4j2.configurationFile=log4j2.xml -cp "$STORES/kafka/lib/*" "$@"; }
    if [ ! -e data/meta.properties ]; then
        java kafka.tools.StorageTool format -t commercetestscluster00 -c server.properties \
            --add-scram "SCRAM-SHA-256=[name=commerce,password=$PASSWORD]" \
            --add-scram "SCRAM-SHA-512=[name=commerce,password=$PASSWORD]" || exit 1
    fi
    exec "$JAVA_HOME/bin/java" -Xms64m -Xmx320m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:+ExitOnOutOfMemoryError \
        -Dlog4j2.configurationFile=log4j2.xml -cp "$STORES/kafka/lib/*" kafka.Kafka server.properties
"#;

const ELASTICSEARCH: &str = r#"
    if [ ! -d config ]; then
        mkdir -p making data logs tmp
        cp elasticsearch.yml jvm.options log4j2.properties server.crt server.key ca.crt making/ || exit 1
    fi
    export FOLDER="$PWD" ES_PATH_CONF="$PWD/config" ES_TMPDIR="$PWD/tmp" CLI_JAVA_OPTS="-Xms4m -Xmx64m -XX:+UseSerialGC"
    [ ! -d making ] || mv making config || exit 1
    if [ ! -e config/elasticsearch.keystore ]; then
        printf %s "$PASSWORD" | "$STORES/elasticsearch/bin/elasticsearch-keystore" add -x -s -f bootstrap.password || exit 1
    fi
    exec "$STORES/elasticsearch/bin/elasticsearch"
"#;

/// What a client of a store may be asked for besides the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Nothing.
    Password,
    /// A certificate of the same authority.
    Certificate,
}

/// A store that speaks TLS and nothing else; what it asks of its clients is [`Clients`].
#[derive(Debug)]
pub struct Secure {
    process: Process,
    port: Port,
}

impl std::ops::Deref for Secure {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// The ready-made files of a server's identity.
fn files(authority: &Authority, server: &Certificate) -> Vec<(&'static str, String)> {
    vec![
        ("ca.crt", authority.pem().to_owned()),
        ("server.crt", server.certificate.clone()),
        ("server.key", server.key.clone()),
    ]
}

impl Secure {
    async fn launch(
        store: &'static str,
        script: &'static str,
        port: Port,
        mut files: Vec<(&'static str, String)>,
        more: Vec<(&'static str, String)>,
    ) -> Result<Self, Error> {
        files.extend(more);
        let stores = distribution::stores().await?;
        let java = distribution::java_home()?.display().to_string();
        let spec = Spec {
            store,
            script,
            variables: vec![
                ("STORES", stores.display().to_string()),
                ("JAVA_HOME", java.clone()),
                ("ES_JAVA_HOME", java),
                ("PORT", port.number.to_string()),
                ("PASSWORD", PASSWORD.to_owned()),
            ],
            files,
        };
        let number = port.number;
        let process = Process::start(spec, move || listens(number).boxed()).await?;
        Ok(Self { process, port })
    }

    /// PostgreSQL with the database and the role [`USER`], which logs in with SCRAM over TLS.
    pub async fn postgres(
        authority: &Authority,
        server: &Certificate,
        clients: Clients,
    ) -> Result<Self, Error> {
        let port = Port::claim().map_err(failure("postgres", "finding a port"))?;
        let option = match clients {
            Clients::Password => "",
            Clients::Certificate => " clientcert=verify-full",
        };
        let rules = format!("hostssl all all 127.0.0.1/32 scram-sha-256{option}\n");
        let more = vec![("pg_hba.conf", rules), ("password", PASSWORD.to_owned())];
        Self::launch("postgres", POSTGRES, port, files(authority, server), more).await
    }

    /// Redis, whose `default` user may nothing.
    pub async fn redis(authority: &Authority, server: &Certificate, clients: Clients) -> Result<Self, Error> {
        let port = Port::claim().map_err(failure("redis", "finding a port"))?;
        let asked = if clients == Clients::Certificate {
            "yes"
        } else {
            "no"
        };
        let conf = format!(
            "bind 127.0.0.1
port 0
tls-port {}
tls-cert-file server.crt
tls-key-file server.key
tls-ca-cert-file ca.crt
tls-auth-clients {asked}
user default off
user {USER} on >{PASSWORD} ~* &* +@all
save \"\"
appendonly yes
",
            port.number
        );
        let more = vec![("redis.conf", conf)];
        Self::launch("redis", REDIS, port, files(authority, server), more).await
    }

    /// Kafka, with SASL SCRAM over TLS or, where clients are asked for certificates, with these alone.
    pub async fn kafka(authority: &Authority, server: &Certificate, clients: Clients) -> Result<Self, Error> {
        let claim = || Port::claim().map_err(failure("kafka", "finding a port"));
        let (port, controller) = (claim()?, claim()?);
        let settings = kafka_settings(port.number, controller.number, clients);
        let identity = vec![
            ("keystore.pem", format!("{}{}", server.key, server.certificate)),
            ("ca.crt", authority.pem().to_owned()),
        ];
        let more = vec![
            ("server.properties", settings),
            ("log4j2.xml", include_str!("log4j2.xml").to_owned()),
        ];
        Self::launch("kafka", KAFKA, port, identity, more).await
    }

    /// Elasticsearch with its security on; the user is `elastic`, a superuser.
    pub async fn elasticsearch(
        authority: &Authority,
        server: &Certificate,
        clients: Clients,
    ) -> Result<Self, Error> {
        let port = Port::claim().map_err(failure("elasticsearch", "finding a port"))?;
        let more = super::elasticsearch::secure_files(port.number, clients == Clients::Certificate);
        Self::launch(
            "elasticsearch",
            ELASTICSEARCH,
            port,
            files(authority, server),
            more,
        )
        .await
    }

    /// `localhost:<port>`
    #[must_use]
    pub fn address(&self) -> String {
        format!("{HOST}:{}", self.port.number)
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// What a service is told of a PostgreSQL.
    #[must_use]
    pub fn postgres_config(&self, tls: &Tls) -> PostgresConfig {
        let password = SecretString::from(PASSWORD);
        let options = postgres::options(HOST, self.port(), USER, USER, Some(&password));
        PostgresConfig {
            options: postgres::with_tls(options, tls),
            pool_size: 10,
        }
    }

    /// What a service is told of a Redis.
    pub fn redis_config(&self, tls: &Tls) -> Result<RedisConfig, Error> {
        let password = SecretString::from(PASSWORD);
        redis::info(HOST.to_owned(), self.port(), 0, Some(USER), Some(&password))
            .and_then(|info| RedisConfig::with_tls(info, Some(tls), "secure:"))
            .ok_or_else(|| Error::Address(self.address()))
    }

    /// What a service is told of a Kafka; without a mechanism it knows us by our certificate.
    #[must_use]
    pub fn kafka_config(&self, tls: &Tls, mechanism: Option<&str>) -> KafkaConfig {
        KafkaConfig {
            tls: Some(tls.clone()),
            sasl: mechanism.map(|mechanism| Sasl {
                mechanism: mechanism.to_owned(),
                username: USER.to_owned(),
                password: PASSWORD.into(),
            }),
            ..KafkaConfig::plaintext(self.address(), "secure.")
        }
    }

    /// What a service is told of an Elasticsearch.
    pub fn elasticsearch_config(&self, tls: &Tls) -> Result<ElasticsearchConfig, Error> {
        let url = format!("https://{}", self.address());
        let url = Url::parse(&url).map_err(|error| Error::Address(format!("{url}: {error}")))?;
        Ok(ElasticsearchConfig {
            username: Some("elastic".to_owned()),
            password: Some(PASSWORD.into()),
            tls: Some(tls.clone()),
            ..ElasticsearchConfig::open(url, "orders")
        })
    }
}

impl Authority {
    /// For clients that trust this authority.
    pub fn tls(&self, client: Option<&Certificate>) -> Result<Tls, Error> {
        let client = client.map(|client| (client.certificate.clone().into(), client.key.clone().into()));
        Tls::new(Some(self.pem().into()), client)
            .map_err(|error| Error::Address(format!("a certificate: {error}")))
    }
}

/// A store answers its first callers a moment later than its port is open; whoever calls has to ask again.
async fn listens(port: u16) -> Result<(), String> {
    let connected = TcpStream::connect(("127.0.0.1", port)).await;
    connected.map(drop).map_err(|error| error.to_string())
}

fn kafka_settings(port: u16, controller: u16, clients: Clients) -> String {
    let (protocol, auth) = match clients {
        Clients::Password => ("SASL_SSL", "none"),
        Clients::Certificate => ("SSL", "required"),
    };
    // Broker and controller are one process, so that the broker itself needs no login.
    format!(
        "{common}
listeners=CLIENTS://127.0.0.1:{port},BROKER://127.0.0.1:0,CONTROLLER://127.0.0.1:{controller}
advertised.listeners=CLIENTS://{HOST}:{port},BROKER://127.0.0.1:0
inter.broker.listener.name=BROKER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,BROKER:PLAINTEXT,CLIENTS:{protocol}
sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512
listener.name.clients.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.clients.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location=keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location=ca.crt
ssl.client.auth={auth}
",
        common = super::kafka::common_settings(controller)
    )
}
