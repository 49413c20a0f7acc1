//! A pipeline on stores that speak nothing but TLS and let nobody in without a login: PostgreSQL, Elasticsearch and Redis ask for a
//! password and a client certificate, Kafka for SCRAM. Nothing runs in a cluster, but everything is as there: the operator prepares
//! the stores, and the services get the variables and files that the operator's pods would get.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use commerce_api::Server;
use commerce_core::{
    config::Env,
    postgres::PostgresConfig,
    testing::{Authority, Certificate, Clients, HOST, PASSWORD, Secure, USER},
};
use commerce_e2e::eventually::eventually;
use commerce_indexer::Indexer;
use commerce_operator::{
    crd::CommercePipeline,
    reconcile::{
        build,
        secrets::Secrets,
        stores::{Remote, Stores as _},
        validate::{Pipeline, validate},
    },
};
use commerce_relay::Relay;
use k8s_openapi::{
    ByteString,
    api::core::v1::{PodTemplateSpec, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// A busy machine takes its time until a store that listens also answers.
const PATIENCE: Duration = Duration::from_secs(90);
/// Once everything is up.
const SOON: Duration = Duration::from_secs(30);

struct Stores {
    postgres: Secure,
    kafka: Secure,
    elasticsearch: Secure,
    redis: Secure,
}

impl Stores {
    async fn start(authority: &Authority) -> Result<Self> {
        let server = authority.server(&[HOST])?;
        let (postgres, kafka, elasticsearch, redis) = tokio::try_join!(
            Secure::postgres(authority, &server, Clients::Certificate),
            Secure::kafka(authority, &server, Clients::Password),
            Secure::elasticsearch(authority, &server, Clients::Certificate),
            Secure::redis(authority, &server, Clients::Certificate),
        )?;
        Ok(Self {
            postgres,
            kafka,
            elasticsearch,
            redis,
        })
    }

    /// A pipeline on them.
    fn resource(&self) -> Result<CommercePipeline> {
        let ca = json!({ "caSecretRef": { "name": "authority", "key": "ca.crt" } });
        let mutual = json!({
            "caSecretRef": { "name": "authority", "key": "ca.crt" },
            "certificateSecretRef": { "name": "client" },
        });
        let password = json!({ "name": "login", "key": "password" });
        let resource = json!({
            "apiVersion": "commerce.lab/v1alpha1",
            "kind": "CommercePipeline",
            "metadata": { "name": "shop", "namespace": "store", "uid": "1", "generation": 1 },
            "spec": {
                "image": { "registry": "commerce.local", "tag": "test" },
                "postgres": { "secretRef": { "name": "login" }, "tls": mutual },
                "kafka": {
                    "bootstrapServers": self.kafka.address(),
                    "tls": ca,
                    "sasl": { "mechanism": "SCRAM-SHA-512", "username": USER, "passwordSecretRef": password },
                    "topics": { "partitions": 2 },
                },
                "elasticsearch": {
                    "url": format!("https://{}", self.elasticsearch.address()),
                    "auth": { "passwordSecretRef": password },
                    "tls": mutual,
                },
                "redis": {
                    "host": HOST,
                    "port": self.redis.port(),
                    "auth": { "username": USER, "passwordSecretRef": password },
                    "tls": mutual,
                },
                "api": {},
                "relay": {},
                "indexer": { "replicas": 1 },
            },
        });
        Ok(serde_json::from_value(resource)?)
    }

    fn secrets(&self, trusted: &str, client: &Certificate) -> Vec<Secret> {
        let uri = format!(
            "postgresql://{USER}:{PASSWORD}@{}/{USER}",
            self.postgres.address()
        );
        vec![
            secret("login", &[("uri", &uri), ("password", PASSWORD)]),
            secret("authority", &[("ca.crt", trusted)]),
            secret(
                "client",
                &[("tls.crt", &client.certificate), ("tls.key", &client.key)],
            ),
        ]
    }
}

fn secret(name: &str, data: &[(&str, &str)]) -> Secret {
    let value = |(key, value): &(&str, &str)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()));
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(data.iter().map(value).collect()),
        ..Secret::default()
    }
}

/// What a kubelet does for a pod: its files, in `folder`, and its variables.
fn variables(
    template: &PodTemplateSpec,
    secrets: &[Secret],
    folder: &Path,
) -> Result<BTreeMap<String, String>> {
    let pod = template.spec.as_ref().context("the pod has no spec")?;
    let container = &pod.containers[0];
    for volume in pod.volumes.iter().flatten() {
        let mounts = container.volume_mounts.iter().flatten();
        let mount = mounts.into_iter().find(|mount| mount.name == volume.name);
        let path = &mount.context("a volume is not mounted")?.mount_path;
        let inside = folder.join(path.trim_start_matches('/'));
        fs::create_dir_all(&inside)?;
        let projected = volume.projected.as_ref().context("a volume of another kind")?;
        for source in projected.sources.iter().flatten() {
            let source = source.secret.as_ref().context("a source of another kind")?;
            let secret = secrets
                .iter()
                .find(|one| one.metadata.name.as_ref() == Some(&source.name));
            let data = secret
                .and_then(|secret| secret.data.as_ref())
                .context("no such Secret")?;
            for item in source.items.iter().flatten() {
                fs::write(inside.join(&item.path), &data[&item.key].0)?;
            }
        }
    }
    let root = folder.display().to_string();
    let variables = container.env.iter().flatten().map(|variable| {
        let value = variable.value.clone().unwrap_or_default();
        let value = if value.starts_with("/etc/commerce/") {
            format!("{root}{value}")
        } else {
            value
        };
        (variable.name.clone(), value)
    });
    let mut variables: BTreeMap<_, _> = variables.collect();
    for address in ["HTTP_ADDR", "ADMIN_ADDR"] {
        variables.insert(address.to_owned(), "127.0.0.1:0".to_owned());
    }
    Ok(variables)
}

/// The services of a pipeline, in this process.
struct Services {
    api: Server,
    /// Where each answers `/readyz`.
    admin: Vec<String>,
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<Result<()>>>,
}

impl Services {
    /// Migrates the schema, and starts them.
    async fn start(pipeline: &Pipeline, secrets: &[Secret], folder: &Path) -> Result<Self> {
        let objects = build::objects(pipeline);
        let environment = |name: &str, template: Option<&PodTemplateSpec>| {
            let template = template.with_context(|| format!("{name} has no pods"))?;
            let variables = variables(template, secrets, &folder.join(name))?;
            anyhow::Ok(Env::from_pairs(variables))
        };
        let service = |name: &str| {
            let found = objects
                .deployments
                .iter()
                .find(|one| one.metadata.name.as_deref() == Some(&format!("shop-{name}")));
            environment(name, found.and_then(|one| Some(&one.spec.as_ref()?.template)))
        };
        let job = objects.migration.as_ref();
        let mut env = environment("migrate", job.and_then(|job| Some(&job.spec.as_ref()?.template)))?;
        let postgres = PostgresConfig::from_env(&mut env);
        let postgres = env.finish(|| postgres)?;
        commerce_api::cli::migrate(&postgres.options, 10, 100, SOON).await?;

        let stop = CancellationToken::new();
        let api = Server::start(commerce_api::Config::from_env(service("api")?)?, stop.clone()).await?;
        let (config, _) = commerce_relay::Config::from_env(service("relay")?)?;
        let relay = Relay::bind(config).await?;
        let indexer = Indexer::bind(commerce_indexer::Config::from_env(service("indexer")?)?).await?;
        let admin = vec![
            api.admin_address().to_string(),
            relay.admin_addr()?.to_string(),
            indexer.admin_addr()?.to_string(),
        ];
        let (relay_stops, indexer_stops) = (stop.clone(), stop.clone());
        let tasks = vec![
            tokio::spawn(async move { Ok(relay.run(relay_stops).await?) }),
            tokio::spawn(async move { Ok(indexer.run(indexer_stops).await?) }),
        ];
        Ok(Self {
            api,
            admin,
            stop,
            tasks,
        })
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        self.api.stopped().await?;
        for task in self.tasks {
            task.await??;
        }
        Ok(())
    }
}

/// That a service is ready, and that it reaches all its stores, also those that it could do without.
async fn ready(admin: &str) -> Result<()> {
    let answer: Value = reqwest::get(format!("http://{admin}/readyz"))
        .await?
        .json()
        .await?;
    let checks = answer["checks"].as_object().context("there are no checks")?;
    let failing = checks.iter().find(|(_, check)| check["ready"] != true);
    ensure!(answer["ready"] == true && failing.is_none(), "it is {answer}");
    Ok(())
}

async fn get(url: &str) -> Result<Value> {
    Ok(reqwest::get(url).await?.error_for_status()?.json().await?)
}

/// The stores that the operator can't get into, as it tells it.
async fn away(resource: &CommercePipeline, secrets: &[Secret]) -> Result<Vec<String>> {
    let pipeline = validate(resource, &Secrets::new(secrets.to_vec()))?;
    let away = Remote.away(&pipeline).await;
    Ok(away.iter().map(ToString::to_string).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_takes_its_way_over_tls() -> Result<()> {
    let authority = Authority::new("shop")?;
    let client = authority.client(USER)?;
    let stores = Stores::start(&authority).await?;
    let resource = stores.resource()?;
    let secrets = stores.secrets(authority.pem(), &client);
    eventually("the operator gets into the stores", PATIENCE, async || {
        let away = away(&resource, &secrets).await?;
        ensure!(away.is_empty(), "away: {away:#?}");
        Ok(())
    })
    .await?;
    Box::pin(those_who_should_not_get_in(&stores, &authority, &client)).await?;

    let pipeline = validate(&resource, &Secrets::new(secrets.clone()))?;
    let failed = anyhow::Error::msg;
    let topics = Remote.ensure_topics(&pipeline.kafka).await.map_err(failed)?;
    ensure!(topics.iter().all(|topic| topic.changed && topic.partitions == 2));
    Remote
        .ensure_index(&pipeline.elasticsearch)
        .await
        .map_err(failed)?;
    let folder = tempfile::tempdir()?;
    let services = Services::start(&pipeline, &secrets, folder.path()).await?;
    for admin in &services.admin {
        eventually("the services reach all their stores", SOON, async || {
            ready(admin).await
        })
        .await?;
    }

    let api = format!("http://{}", services.api.http_address());
    let order = json!({ "skuId": 1, "quantity": 2, "userId": "ada" });
    let placed = reqwest::Client::new()
        .post(format!("{api}/orders"))
        .json(&order)
        .send()
        .await?;
    let placed: Value = placed.error_for_status()?.json().await?;
    let id = placed["orderId"].as_str().context("it has no id")?;
    eventually("the order is found", SOON, async || {
        let found = get(&format!("{api}/search/orders?userId=ada")).await?;
        ensure!(found[0]["orderId"] == id, "found is {found}");
        let timeline = get(&format!("{api}/orders/{id}/timeline")).await?;
        let stages = timeline["stages"].as_array().context("there are no stages")?;
        ensure!(stages.iter().all(|stage| stage["state"] == "DONE"), "{timeline}");
        Ok(())
    })
    .await?;
    services.stop().await?;

    Remote.remove_topics(&pipeline.kafka).await.map_err(failed)?;
    Remote
        .remove_index(&pipeline.elasticsearch)
        .await
        .map_err(failed)?;
    Remote
        .remove_schema(&pipeline.postgres.connect)
        .await
        .map_err(failed)
}

/// They are told which field to set, and nothing of the secrets.
async fn those_who_should_not_get_in(
    stores: &Stores,
    authority: &Authority,
    client: &Certificate,
) -> Result<()> {
    let resource = stores.resource()?;
    let distrustful = stores.secrets(Authority::new("stranger")?.pem(), client);
    let told = away(&resource, &distrustful).await?;
    for (store, field) in [
        ("PostgreSQL (postgres.secretRef): ", "postgres.tls.caSecretRef"),
        ("Kafka (kafka.bootstrapServers): ", "kafka.tls.caSecretRef"),
        (
            "Elasticsearch (elasticsearch.url): ",
            "elasticsearch.tls.caSecretRef",
        ),
        ("Redis (redis.host): ", "redis.tls.caSecretRef"),
    ] {
        is_told(
            &told,
            store,
            &format!("give the authority that signed it in {field}"),
        )?;
    }

    let mut unknown = resource;
    for tls in [
        &mut unknown.spec.postgres.tls,
        &mut unknown.spec.elasticsearch.tls,
        &mut unknown.spec.redis.tls,
    ] {
        tls.as_mut().context("it has no tls")?.certificate_secret_ref = None;
    }
    unknown.spec.kafka.tls = None;
    let told = away(&unknown, &stores.secrets(authority.pem(), client)).await?;
    for (store, field) in [
        ("PostgreSQL (", "postgres.tls.certificateSecretRef"),
        ("Elasticsearch (", "elasticsearch.tls.certificateSecretRef"),
        ("Redis (", "redis.tls.certificateSecretRef"),
    ] {
        is_told(&told, store, &format!("give one in {field}"))?;
    }
    is_told(&told, "Kafka (", "turn it on in kafka.tls")
}

fn is_told(told: &[String], store: &str, advice: &str) -> Result<()> {
    let found = told.iter().find(|one| one.starts_with(store));
    let fits = found.is_some_and(|one| one.contains(advice) && !one.contains(PASSWORD));
    ensure!(fits, "told was {told:#?}, expected of {store}: {advice}");
    Ok(())
}
