//! The topics as they are.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    admin::{ConfigSource, OwnedResourceSpecifier, ResourceSpecifier},
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    metadata::MetadataTopic,
};
use tokio::time::Instant;

use super::{Error, TopicSpec, admin, names, options};
use crate::kafka::{KafkaConfig, Watched};

/// Shorter than callers wait, so that they get to know what is wrong.
const METADATA: Duration = Duration::from_secs(4);
const READING: &str = "reading the topics from Kafka";
/// What Kafka answers about a topic that does not exist, or that we may not know of.
const ABSENT: [RDKafkaErrorCode; 3] = [
    RDKafkaErrorCode::UnknownTopicOrPartition,
    RDKafkaErrorCode::TopicAuthorizationFailed,
    RDKafkaErrorCode::InvalidTopic,
];

/// A topic as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topic {
    pub partitions: i32,
    pub replication_factor: i32,
    /// What holds for it, defaults of the cluster included; see [`read`].
    pub config: BTreeMap<String, String>,
    /// What is set on the topic itself. A value that Kafka does not tell is absent.
    pub own: BTreeMap<String, Option<String>>,
}

/// The pipeline's topics that exist.
///
/// Their configuration is read only where the spec sets some, so that a user who may not read it can do without.
pub async fn read(kafka: &KafkaConfig, spec: &TopicSpec) -> Result<BTreeMap<String, Topic>, Error> {
    let mut found = look(kafka).await?;
    if spec.config.is_empty() || found.is_empty() {
        return Ok(found);
    }
    let action = || "reading the configuration of the topics".to_owned();
    let resources: Vec<_> = found.keys().map(|name| ResourceSpecifier::Topic(name)).collect();
    let described = admin(kafka)?.describe_configs(&resources, &options()).await;
    for resource in described.map_err(|source| Error::Kafka {
        action: action(),
        source,
    })? {
        let resource = resource.map_err(|code| Error::Refused {
            action: action(),
            code,
        })?;
        let OwnedResourceSpecifier::Topic(name) = &resource.specifier else {
            continue;
        };
        let Some(topic) = found.get_mut(name) else {
            continue;
        };
        for entry in resource.entries {
            if matches!(entry.source, ConfigSource::DynamicTopic) {
                topic.own.insert(entry.name.clone(), entry.value.clone());
            }
            topic.config.extend(entry.value.map(|value| (entry.name, value)));
        }
    }
    Ok(found)
}

/// The pipeline's topics that exist, with the number of their partitions. Also tells that Kafka can be reached.
pub async fn partitions(kafka: &KafkaConfig) -> Result<BTreeMap<String, i32>, Error> {
    let found = look(kafka).await?;
    Ok(found
        .into_iter()
        .map(|(name, topic)| (name, topic.partitions))
        .collect())
}

/// The pipeline's topics that exist, without their configuration.
async fn look(kafka: &KafkaConfig) -> Result<BTreeMap<String, Topic>, Error> {
    // An admin client does not serve its log, which alone tells why there is no connection. That a broker hangs up is what one
    // does that wants TLS.
    let consumer: BaseConsumer<Watched> = kafka
        .client("commerce-admin")
        .set("log.connection.close", "true")
        .set_log_level(RDKafkaLogLevel::Info)
        .create_with_context(Watched::default())
        .map_err(|source| Error::Kafka {
            action: "preparing the Kafka client".to_owned(),
            source,
        })?;
    let names = names(kafka);
    let read = tokio::task::spawn_blocking(move || {
        describe(&consumer, names).map_err(|error| {
            while consumer.poll(Duration::from_millis(50)).is_some() {}
            consumer.client().context().0.explain(&error)
        })
    });
    let problem = match read.await {
        Ok(Ok(found)) => return Ok(found),
        // librdkafka means to say so itself, and looks for it in a text that has become a format.
        Ok(Err(problem)) if kafka.tls.is_none() && problem.contains("APIVERSION_QUERY") => {
            format!("{problem} (connecting to a SSL listener?)")
        }
        Ok(Err(problem)) => problem,
        Err(_) => KafkaError::Canceled.to_string(),
    };
    Err(Error::Unreachable {
        action: READING.to_owned(),
        problem,
    })
}

/// Asks for each topic by its name: an answer about all topics of a large Kafka takes megabytes. A consumer's question does not
/// create them.
fn describe(
    consumer: &BaseConsumer<Watched>,
    names: Vec<String>,
) -> Result<BTreeMap<String, Topic>, KafkaError> {
    let until = Instant::now() + METADATA;
    let mut found = BTreeMap::new();
    for name in names {
        let left = until.saturating_duration_since(Instant::now());
        let answer = consumer.fetch_metadata(Some(&name), left)?;
        let topic = answer.topics().iter().find(|topic| topic.name() == name);
        let exists = |topic: &&MetadataTopic| {
            let error = topic.error().map(RDKafkaErrorCode::from);
            !error.is_some_and(|error| ABSENT.contains(&error))
        };
        if let Some(topic) = topic.filter(exists) {
            found.insert(name, Topic::of(topic));
        }
    }
    Ok(found)
}

impl Topic {
    fn of(topic: &MetadataTopic) -> Self {
        let replicas = topic
            .partitions()
            .first()
            .map_or(0, |first| first.replicas().len());
        Self {
            partitions: i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX),
            replication_factor: i32::try_from(replicas).unwrap_or(i32::MAX),
            config: BTreeMap::new(),
            own: BTreeMap::new(),
        }
    }
}
