//! Kafka topics: how they differ from what is wanted, how they are brought about and removed.

mod read;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rdkafka::{
    admin::{
        AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
    },
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::time::{Instant, sleep};

pub use self::read::{Topic, partitions, read};
use crate::{
    drift::Difference,
    event::EventType,
    kafka::{KafkaConfig, Quiet},
};

const TIMEOUT: Duration = Duration::from_secs(10);
/// How long Kafka may take until it tells a setting as it was changed.
const TAKEN: Duration = Duration::from_secs(5);

/// The topics of a pipeline, as they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    pub partitions: i32,
    pub replication_factor: i32,
    /// Topic configuration such as `retention.ms`.
    pub config: BTreeMap<String, String>,
}

/// What [`ensure`] found or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    pub name: String,
    pub partitions: i32,
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
    #[error("Kafka has not taken {value} for {key} of the topic {topic}")]
    NotTaken {
        topic: String,
        key: String,
        value: String,
    },
    #[error(
        "the topic {topic} has a setting {key} whose value Kafka keeps to itself, and which would be lost: make the change with kafka-configs.sh"
    )]
    Unreadable { topic: String, key: String },
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

/// Where the topics are not as the spec says.
#[must_use]
pub fn differences(
    kafka: &KafkaConfig,
    spec: &TopicSpec,
    found: &BTreeMap<String, Topic>,
) -> Vec<Difference> {
    let mut all = Vec::new();
    for name in names(kafka) {
        let object = format!("topic {name}");
        let Some(topic) = found.get(&name) else {
            all.push(Difference::missing(object));
            continue;
        };
        let number = |field: &str, found: i32, wanted: i32| {
            Difference::field(&object, field, Some(found.to_string()), Some(wanted.to_string()))
        };
        if topic.partitions < spec.partitions {
            all.push(number("partitions", topic.partitions, spec.partitions));
        } else if topic.partitions > spec.partitions {
            let advice = format!(
                "Kafka can't take partitions away: set kafka.topics.partitions to {}",
                topic.partitions
            );
            all.push(number("partitions", topic.partitions, spec.partitions).that_stays(advice));
        }
        if topic.replication_factor != spec.replication_factor {
            let advice = "move replicas with kafka-reassign-partitions.sh";
            let differing = number(
                "replicationFactor",
                topic.replication_factor,
                spec.replication_factor,
            );
            all.push(differing.that_stays(advice));
        }
        for (key, wanted) in &spec.config {
            let is = topic.config.get(key);
            if !is.is_some_and(|is| same(is, wanted)) {
                all.push(Difference::field(&object, key, is.cloned(), Some(wanted.clone())));
            }
        }
    }
    all
}

/// Whether two values of a setting mean the same: Kafka gives numbers and lists back in its own notation.
fn same(one: &str, other: &str) -> bool {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let list = |text: &str| {
        text.split(',')
            .map(|part| part.trim().to_owned())
            .collect::<Vec<_>>()
    };
    list(one) == list(other)
        || number(one)
            .zip(number(other))
            .is_some_and(|(one, other)| (one - other).abs() < f64::EPSILON)
}

/// Creates the topics that are missing, adds partitions where there are fewer than wanted, and sets the configuration
/// where it differs; safe to run again and at the same time elsewhere. A topic that has more partitions keeps them: Kafka
/// can't take any away. Settings that the spec does not name stay as they are.
///
/// Kafka is asked beforehand whether it would take each of the changes, and if it refuses one, none is made.
pub async fn ensure(kafka: &KafkaConfig, spec: &TopicSpec) -> Result<Vec<TopicState>, Error> {
    let found = read(kafka, spec).await?;
    let admin = admin(kafka)?;
    let changes = changes(kafka, spec, &found);
    for change in &changes {
        change.check(&admin).await?;
    }
    let mut touched = BTreeSet::new();
    for change in &changes {
        if change.make(&admin, &options()).await? {
            touched.insert(change.topic());
        }
    }
    for change in &changes {
        if let Change::Configure(name, _) = change {
            taken(kafka, spec, name).await?;
        }
    }
    let partitions = |name: &String| {
        found
            .get(name)
            .map_or(spec.partitions, |topic| topic.partitions.max(spec.partitions))
    };
    Ok(names(kafka)
        .into_iter()
        .map(|name| TopicState {
            partitions: partitions(&name),
            changed: touched.contains(name.as_str()),
            name,
        })
        .collect())
}

/// Returns when Kafka has taken the configuration of a topic: the client library does not tell what Kafka answers to that
/// call for each topic.
async fn taken(kafka: &KafkaConfig, spec: &TopicSpec, name: &str) -> Result<(), Error> {
    let until = Instant::now() + TAKEN;
    loop {
        let found = read(kafka, spec).await?;
        let Some((key, value)) = found.get(name).and_then(|topic| spec.differing(topic)) else {
            return Ok(());
        };
        if Instant::now() > until {
            return Err(Error::NotTaken {
                topic: name.to_owned(),
                key: key.to_owned(),
                value: value.to_owned(),
            });
        }
        sleep(Duration::from_millis(100)).await;
    }
}

impl TopicSpec {
    /// The first setting that a topic does not have as it is wanted.
    fn differing(&self, topic: &Topic) -> Option<(&str, &str)> {
        let differs =
            |(key, wanted): &(&String, &String)| !topic.config.get(*key).is_some_and(|is| same(is, wanted));
        let found = self.config.iter().find(differs);
        found.map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// What is to be done about one topic.
enum Change<'a> {
    Create(String, &'a TopicSpec),
    Grow(String, i32),
    /// All that is to be set on the topic itself: the call replaces what was.
    Configure(String, BTreeMap<&'a str, &'a str>),
    /// It has a setting whose value Kafka does not tell, which the call would lose.
    Unreadable(String, String),
}

fn changes<'a>(
    kafka: &KafkaConfig,
    spec: &'a TopicSpec,
    found: &'a BTreeMap<String, Topic>,
) -> Vec<Change<'a>> {
    let mut changes = Vec::new();
    for name in names(kafka) {
        let Some(topic) = found.get(&name) else {
            changes.push(Change::Create(name, spec));
            continue;
        };
        if topic.partitions < spec.partitions {
            changes.push(Change::Grow(name.clone(), spec.partitions));
        }
        if spec.differing(topic).is_none() {
            continue;
        }
        let hidden = topic
            .own
            .iter()
            .find(|(key, value)| value.is_none() && !spec.config.contains_key(*key));
        if let Some((key, _)) = hidden {
            changes.push(Change::Unreadable(name, key.clone()));
            continue;
        }
        let kept = topic
            .own
            .iter()
            .filter_map(|(key, value)| Some((key.as_str(), value.as_deref()?)));
        let wanted = spec
            .config
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        changes.push(Change::Configure(name, kept.chain(wanted).collect()));
    }
    changes
}

impl Change<'_> {
    fn topic(&self) -> &str {
        match self {
            Self::Create(name, _)
            | Self::Grow(name, _)
            | Self::Configure(name, _)
            | Self::Unreadable(name, _) => name,
        }
    }

    /// Whether Kafka would make the change.
    async fn check(&self, admin: &AdminClient<Quiet>) -> Result<(), Error> {
        let options = options().validate_only(true);
        let Self::Configure(name, settings) = self else {
            return self.make(admin, &options).await.map(drop);
        };
        // Asked to set it, Kafka's answer would be lost (see `taken`); asked whether it would make such a topic, it is not.
        let probe = format!("{name}.probe");
        let mut topic = NewTopic::new(&probe, 1, TopicReplication::Fixed(1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let results = admin.create_topics([&topic], &options).await;
        // A user who may not make such a topic may change this one all the same.
        settle(
            self.setting(settings),
            results,
            RDKafkaErrorCode::TopicAuthorizationFailed,
        )
        .map(drop)
    }

    fn setting(&self, settings: &BTreeMap<&str, &str>) -> String {
        let names: Vec<_> = settings.keys().copied().collect();
        format!("setting {} of the topic {}", names.join(", "), self.topic())
    }

    /// Makes the change; `false` where somebody else was faster.
    async fn make(&self, admin: &AdminClient<Quiet>, options: &AdminOptions) -> Result<bool, Error> {
        let name = self.topic();
        let action = |what: &str| format!("{what} the topic {name}");
        match self {
            Self::Create(_, spec) => {
                let replication = TopicReplication::Fixed(spec.replication_factor);
                let mut topic = NewTopic::new(name, spec.partitions, replication);
                for (key, value) in &spec.config {
                    topic = topic.set(key, value);
                }
                let results = admin.create_topics([&topic], options).await;
                settle(action("creating"), results, RDKafkaErrorCode::TopicAlreadyExists)
            }
            Self::Grow(_, wanted) => {
                let count = usize::try_from(*wanted).unwrap_or_default();
                let results = admin
                    .create_partitions([&NewPartitions::new(name, count)], options)
                    .await;
                settle(
                    action("adding partitions to"),
                    results,
                    RDKafkaErrorCode::InvalidPartitions,
                )
            }
            Self::Configure(_, settings) => {
                let mut config = AlterConfig::new(ResourceSpecifier::Topic(name));
                for (key, value) in settings {
                    config = config.set(key, value);
                }
                let results = admin.alter_configs([&config], options).await;
                results.map(|_| true).map_err(|source| Error::Kafka {
                    action: self.setting(settings),
                    source,
                })
            }
            Self::Unreadable(_, key) => Err(Error::Unreadable {
                topic: name.to_owned(),
                key: key.clone(),
            }),
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .operation_timeout(Some(TIMEOUT))
        .request_timeout(Some(TIMEOUT))
}

/// Deletes the topics; what is missing already is fine.
pub async fn delete(kafka: &KafkaConfig) -> Result<(), Error> {
    let names = names(kafka);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let action = || format!("deleting the topics {}", names.join(", "));
    let results = admin(kafka)?
        .delete_topics(&names, &options())
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

fn admin(kafka: &KafkaConfig) -> Result<AdminClient<Quiet>, Error> {
    kafka
        .client("commerce-admin")
        .create_with_context(Quiet)
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
