//! Kafka topics: how they are brought about and removed.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};

use crate::{
    event::EventType,
    kafka::{KafkaConfig, Watched},
};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Shorter than callers wait, so that they get to know what is wrong.
const METADATA: Duration = Duration::from_secs(4);

/// The topics of a pipeline, as they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    pub partitions: i32,
    pub replication_factor: i32,
    /// Topic configuration such as `retention.ms`; set when a topic is created.
    pub config: BTreeMap<String, String>,
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    pub name: String,
    pub partitions: i32,
    /// [`ensure`] created it, or gave it more partitions.
    pub changed: bool,
}

/// Why the topics could not be brought about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{action}: {source}")]
    Kafka { action: String, source: KafkaError },
    #[error("{action}: {problem}")]
    Unreachable { action: String, problem: String },
    #[error("{action}: Kafka answered {code}")]
    Refused { action: String, code: RDKafkaErrorCode },
}

/// Names of all the topics of a pipeline: one for each event type, and its dead letters.
#[must_use]
pub fn names(kafka: &KafkaConfig) -> Vec<String> {
    EventType::ALL
        .iter()
        .flat_map(|event| {
            [
                kafka.topic(event.topic()),
                dead_letters(&kafka.topic(event.topic())),
            ]
        })
        .collect()
}

/// The name of a topic's dead-letter topic.
#[must_use]
pub fn dead_letters(topic: &str) -> String {
    format!("{topic}.dlq")
}

/// Creates the topics that are missing and adds partitions where there are fewer than wanted; safe to run again and at
/// the same time elsewhere. A topic that has more partitions keeps them: Kafka can't take any away.
pub async fn ensure(kafka: &KafkaConfig, spec: &TopicSpec) -> Result<Vec<TopicState>, Error> {
    let admin = admin(kafka)?;
    let found = partitions(kafka).await?;
    let options = AdminOptions::new()
        .operation_timeout(Some(TIMEOUT))
        .request_timeout(Some(TIMEOUT));
    let mut states = Vec::new();
    for name in names(kafka) {
        let action = |what: &str| format!("{what} the topic {name}");
        let wanted = spec.partitions;
        let (partitions, changed) = match found.get(&name) {
            None => {
                let replication = TopicReplication::Fixed(spec.replication_factor);
                let mut topic = NewTopic::new(&name, wanted, replication);
                for (key, value) in &spec.config {
                    topic = topic.set(key, value);
                }
                let results = admin.create_topics([&topic], &options).await;
                (
                    wanted,
                    settle(action("creating"), results, RDKafkaErrorCode::TopicAlreadyExists)?,
                )
            }
            Some(&partitions) if partitions < wanted => {
                let count = usize::try_from(wanted).unwrap_or_default();
                let results = admin
                    .create_partitions([&NewPartitions::new(&name, count)], &options)
                    .await;
                (
                    wanted,
                    settle(
                        action("adding partitions to"),
                        results,
                        RDKafkaErrorCode::InvalidPartitions,
                    )?,
                )
            }
            Some(&partitions) => (partitions, false),
        };
        states.push(TopicState {
            name,
            partitions,
            changed,
        });
    }
    Ok(states)
}

/// Deletes the topics; what is missing already is fine.
pub async fn delete(kafka: &KafkaConfig) -> Result<(), Error> {
    let names = names(kafka);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let options = AdminOptions::new()
        .operation_timeout(Some(TIMEOUT))
        .request_timeout(Some(TIMEOUT));
    let action = || format!("deleting the topics {}", names.join(", "));
    let results = admin(kafka)?
        .delete_topics(&names, &options)
        .await
        .map_err(|source| Error::Kafka {
            action: action(),
            source,
        })?;
    for result in results {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
            Err((name, code)) => {
                return Err(Error::Refused {
                    action: format!("deleting the topic {name}"),
                    code,
                });
            }
        }
    }
    Ok(())
}

/// The topics that exist on the cluster, with the number of their partitions. Also tells that Kafka can be reached.
pub async fn partitions(kafka: &KafkaConfig) -> Result<BTreeMap<String, i32>, Error> {
    // An admin client does not serve its log, which alone tells why there is no connection.
    let consumer: BaseConsumer<Watched> = kafka
        .client("commerce-admin")
        .create_with_context(Watched::default())
        .map_err(|source| Error::Kafka {
            action: "preparing the Kafka client".to_owned(),
            source,
        })?;
    let read = tokio::task::spawn_blocking(move || {
        consumer.fetch_metadata(None, METADATA).map_err(|error| {
            while consumer.poll(Duration::from_millis(50)).is_some() {}
            consumer.client().context().0.explain(&error)
        })
    });
    let action = || "reading the topics from Kafka".to_owned();
    let metadata = match read.await {
        Ok(result) => result.map_err(|problem| Error::Unreachable {
            action: action(),
            problem,
        })?,
        Err(_) => {
            return Err(Error::Kafka {
                action: action(),
                source: KafkaError::Canceled,
            });
        }
    };
    let count = |topic: &rdkafka::metadata::MetadataTopic| {
        i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX)
    };
    Ok(metadata
        .topics()
        .iter()
        .map(|topic| (topic.name().to_owned(), count(topic)))
        .collect())
}

fn admin(kafka: &KafkaConfig) -> Result<AdminClient<Watched>, Error> {
    kafka
        .client("commerce-admin")
        .create_with_context(Watched::default())
        .map_err(|source| Error::Kafka {
            action: "preparing the Kafka client".to_owned(),
            source,
        })
}

/// Whether a single admin operation changed something; `settled` is the error that says it was done already.
fn settle(
    action: String,
    results: Result<Vec<rdkafka::admin::TopicResult>, KafkaError>,
    settled: RDKafkaErrorCode,
) -> Result<bool, Error> {
    match results {
        Err(source) => Err(Error::Kafka { action, source }),
        Ok(results) => match results.into_iter().find_map(Result::err) {
            None => Ok(true),
            Some((_, code)) if code == settled => Ok(false),
            Some((_, code)) => Err(Error::Refused { action, code }),
        },
    }
}
