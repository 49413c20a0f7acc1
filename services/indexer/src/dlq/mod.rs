//! `indexer dlq …`: dead letters for people on call. It needs Kafka alone.
//!
//! What always holds:
//! - A letter is published again only into the topic that its dead-letter topic belongs to, with the event's own key, value and
//!   headers, and two more that tell where it comes from. Should the event fail again, its new letter has them, too.
//! - A letter counts as replayed when all replicas have the event. It is noted then, see [`marks`]; whoever is interrupted in
//!   between repeats it, which is as harmless as any repeated event.

mod letter;
mod mailbox;
mod marks;
mod replay;

use std::{
    fmt::Write as _,
    io::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, anyhow, bail};
use clap::{ArgGroup, Subcommand};
use commerce_core::{
    config::Env,
    event::EventType,
    kafka::KafkaConfig,
    print::{self, Output, safe, table},
    topics,
};
use rdkafka::message::OwnedMessage;
use serde::Serialize;
use serde_json::Value;

use self::{
    letter::Letter,
    mailbox::{Address, Mailbox, Stack},
};
use crate::{config, offsets::Partition};

/// Show dead letters, or publish their events again.
#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    /// List dead letters, the newest last.
    List {
        /// Only those of this topic.
        #[arg(long)]
        topic: Option<String>,
        /// No more than this many, the newest.
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Show all of a letter.
    Show {
        /// Which, as topic/partition/offset.
        letter: Address,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Publish events again, for the indexer to try once more.
    #[command(group(ArgGroup::new("which").required(true).args(["letters", "all"])))]
    Replay {
        /// Whose, as topic/partition/offset.
        letters: Vec<Address>,
        /// Those of all letters that were not replayed yet.
        #[arg(long)]
        all: bool,
        /// Only letters of this topic.
        #[arg(long, conflicts_with = "letters")]
        topic: Option<String>,
        /// Also those that were replayed before.
        #[arg(long, conflicts_with = "all")]
        again: bool,
    },
}

/// Dead letters in Kafka.
struct Letters {
    kafka: KafkaConfig,
    /// Reads one thing at a time.
    mailbox: Arc<Mutex<Mailbox>>,
}

impl Dlq {
    /// Does what the command line says.
    pub(crate) async fn run(self, mut env: Env) -> anyhow::Result<()> {
        let kafka = KafkaConfig::from_env(&mut env);
        let group = format!("{}-dlq", config::group_id(&mut env));
        let kafka = env.finish(|| kafka)?;
        let mailbox = Mailbox::open(&kafka, &group).context("preparing the Kafka client")?;
        let letters = Letters {
            kafka,
            mailbox: Arc::new(Mutex::new(mailbox)),
        };
        match self {
            Self::List { topic, limit, output } => letters.list(topic.as_deref(), limit, output).await,
            Self::Show { letter, output } => letters.show(letter, output).await,
            Self::Replay { all: true, topic, .. } => letters.replay_all(topic.as_deref()).await,
            Self::Replay {
                letters: these,
                again,
                ..
            } => letters.replay(these, again).await,
        }
    }
}

impl Letters {
    async fn list(&self, topic: Option<&str>, limit: u32, output: Output) -> anyhow::Result<()> {
        let stacks = self.stacks(&self.topics(topic)?).await?;
        let (limit, most) = (i64::from(limit), usize::try_from(limit)?);
        let mut total = 0;
        let mut newest: Vec<Letter> = Vec::new();
        for stack in stacks {
            total += stack.end - stack.first;
            let mut next = stack.first.max(stack.end - limit);
            while next < stack.end {
                let (records, after) = self.read(&stack, next).await?;
                next = after;
                newest.extend(
                    records
                        .iter()
                        .map(|record| Letter::new(record, stack.marks.has(rdkafka::Message::offset(record)))),
                );
            }
            newest.sort_by_key(|letter| letter.at);
            newest.drain(..newest.len().saturating_sub(most));
        }
        print(&match output {
            Output::Json => print::json(&newest).context("writing JSON")?,
            Output::Text => listed(newest, total),
        })
    }

    async fn show(&self, letter: Address, output: Output) -> anyhow::Result<()> {
        #[derive(Serialize)]
        struct Shown {
            #[serde(flatten)]
            letter: Letter,
            headers: Vec<(String, Value)>,
            payload: Value,
        }

        let (stack, record) = self.find(&letter).await?;
        let (headers, payload) = letter::content(&record);
        let letter = Letter::new(&record, stack.marks.has(letter.offset));
        print(&match output {
            Output::Json => {
                let shown = Shown {
                    letter,
                    headers,
                    payload,
                };
                print::json(&shown).context("writing JSON")?
            }
            Output::Text => shown(letter, headers, &payload),
        })
    }

    /// The letter at an address, and the stack that it is on.
    async fn find(&self, address: &Address) -> anyhow::Result<(Stack, OwnedMessage)> {
        let missing = || anyhow!("there is no letter {}", safe(&address.to_string()));
        let topics = self.topics(Some(&address.partition.topic))?;
        let stacks = self.stacks(&topics).await?;
        let number = address.partition.number;
        let stack = stacks.into_iter().find(|stack| stack.partition.number == number);
        let stack = stack.filter(|stack| (stack.first..stack.end).contains(&address.offset));
        let stack = stack.ok_or_else(missing)?;
        let record = self.get(Address {
            partition: stack.partition.clone(),
            offset: address.offset,
        });
        let record = record.await?.ok_or_else(missing)?;
        Ok((stack, record))
    }

    /// The dead-letter topics, or the one that is meant: by its name or that of the events' topic, with the prefix or without.
    fn topics(&self, meant: Option<&str>) -> anyhow::Result<Vec<String>> {
        let mut topics = Vec::new();
        for event in EventType::ALL {
            let origin = self.kafka.topic(event.topic());
            let topic = topics::dead_letters(&origin);
            let short = topics::dead_letters(event.topic());
            if meant.is_none_or(|meant| [&topic, &origin, &short, event.topic()].contains(&meant)) {
                topics.push(topic);
            }
        }
        if let Some(meant) = meant.filter(|_| topics.is_empty()) {
            let known = self.topics(None)?.join(", ");
            bail!("{} is no topic of dead letters; there are {known}", safe(meant));
        }
        Ok(topics)
    }

    async fn stacks(&self, topics: &[String]) -> anyhow::Result<Vec<Stack>> {
        let found = topics::partitions(&self.kafka).await?;
        let mut partitions = Vec::new();
        for topic in topics {
            let Some(count) = found.get(topic) else {
                bail!("the topic {topic} does not exist")
            };
            partitions.extend((0..*count).map(|number| Partition::new(topic, number)));
        }
        self.blocking(move |mailbox| mailbox.stacks(&partitions)).await
    }

    /// Some records of a stack, and the offset to go on at.
    async fn read(&self, stack: &Stack, from: i64) -> anyhow::Result<(Vec<OwnedMessage>, i64)> {
        let (partition, end) = (stack.partition.clone(), stack.end);
        self.blocking(move |mailbox| mailbox.read(&partition, from, end, replay::BATCH))
            .await
    }

    async fn get(&self, address: Address) -> anyhow::Result<Option<OwnedMessage>> {
        self.blocking(move |mailbox| mailbox.get(&address)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Mailbox) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let mailbox = Arc::clone(&self.mailbox);
        tokio::task::spawn_blocking(move || work(&mailbox.lock().unwrap_or_else(PoisonError::into_inner)))
            .await
            .context("asking Kafka")?
    }
}

fn listed(letters: Vec<Letter>, total: i64) -> String {
    let titles = ["LETTER", "AT", "REASON", "KEY", "STATE", "REPLAYS", "ERROR"];
    let shown = i64::try_from(letters.len()).unwrap_or(i64::MAX);
    if shown == 0 {
        return "there are no dead letters\n".to_owned();
    }
    let rows = letters.into_iter().map(|letter| {
        [
            letter.address,
            letter.at.map_or_else(|| "-".to_owned(), print::time),
            letter.reason,
            letter.key.unwrap_or_else(|| "-".to_owned()),
            (if letter.replayed { "replayed" } else { "waiting" }).to_owned(),
            letter.replays.to_string(),
            letter.error,
        ]
    });
    let mut text = table(titles, rows.collect());
    if shown < total {
        let _ = writeln!(
            text,
            "the newest {shown} of {total} are shown: --limit shows more"
        );
    }
    text
}

fn shown(letter: Letter, headers: Vec<(String, Value)>, payload: &Value) -> String {
    let state = if letter.replayed { "replayed" } else { "waiting" };
    let known = [
        ("letter", Some(letter.address)),
        ("at", letter.at.map(print::time)),
        ("state", Some(state.to_owned())),
        ("replays before", Some(letter.replays.to_string())),
        ("reason", Some(letter.reason)),
        ("error", Some(letter.error)),
        ("origin", letter.origin),
        ("key", letter.key),
    ];
    let mut text = String::new();
    for (name, value) in known {
        if let Some(value) = value {
            let _ = writeln!(text, "{name:<16}{}", safe(&value));
        }
    }
    text.push_str("headers\n");
    for (name, value) in headers {
        let _ = writeln!(text, "  {}: {}", safe(&name), one_line(&value));
    }
    let pretty = payload
        .as_str()
        .and_then(|text| serde_json::from_str::<Value>(text).ok())
        .and_then(|json| serde_json::to_string_pretty(&json).ok());
    text.push_str("payload\n");
    for line in pretty.unwrap_or_else(|| one_line(payload)).lines() {
        let _ = writeln!(text, "  {}", safe(line));
    }
    text
}

fn one_line(value: &Value) -> String {
    match value {
        Value::String(text) => safe(text),
        other => safe(&other.to_string()),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("printing the answer")
}
