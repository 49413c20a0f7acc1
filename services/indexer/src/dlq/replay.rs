//! Publishing the events of dead letters again.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use commerce_core::{
    kafka::Quiet,
    print::{counted, safe},
    topics,
};
use futures::future::join_all;
use rdkafka::{
    Message as _,
    message::OwnedMessage,
    producer::{FutureProducer, FutureRecord},
};

use super::{
    Letters,
    letter::{self, address},
    mailbox::{Address, Stack},
    print,
};
use crate::{dead_letters::reliably, offsets::Partition};

/// Letters that are read, and then published, together.
pub(super) const BATCH: usize = 500;
/// How long an event may wait in front of the producer's queue.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why an event was not published again.
enum Problem {
    /// The letter is to blame.
    Letter(anyhow::Error),
    /// Others would fare no better.
    Kafka(anyhow::Error),
}

#[derive(Default)]
struct Totals {
    replayed: u64,
    before: u64,
    failed: u64,
}

impl Letters {
    /// Replays these letters.
    pub(super) async fn replay(&self, letters: Vec<Address>, again: bool) -> anyhow::Result<()> {
        let producer = self.producer()?;
        let mut totals = Totals::default();
        for address in letters {
            let (mut stack, record) = self.find(&address).await?;
            if stack.marks.has(record.offset()) && !again {
                let text = format!(
                    "{} was replayed before: --again does it once more\n",
                    self::address(&record)
                );
                print(&text)?;
                totals.before += 1;
                continue;
            }
            self.replay_of(&mut stack, vec![record], &producer, &mut totals)
                .await?;
        }
        totals.finish()
    }

    /// Replays all that are there now and were not replayed yet.
    pub(super) async fn replay_all(&self, topic: Option<&str>) -> anyhow::Result<()> {
        let producer = self.producer()?;
        let mut totals = Totals::default();
        for mut stack in self.stacks(&self.topics(topic)?).await? {
            let mut next = stack.marks.next();
            while next < stack.end {
                let (mut records, after) = self.read(&stack, next).await?;
                records.retain(|record| !stack.marks.has(record.offset()));
                // Between them, Kafka has nothing.
                let mut gap = next;
                for record in &records {
                    stack.marks.add(gap, record.offset() - 1);
                    gap = record.offset() + 1;
                }
                stack.marks.add(gap, after - 1);
                next = after;
                self.replay_of(&mut stack, records, &producer, &mut totals)
                    .await?;
            }
        }
        totals.finish()
    }

    /// Replays letters of one stack, and notes which were.
    async fn replay_of(
        &self,
        stack: &mut Stack,
        records: Vec<OwnedMessage>,
        producer: &FutureProducer<Quiet>,
        totals: &mut Totals,
    ) -> anyhow::Result<()> {
        let sent = join_all(records.iter().map(|record| self.publish(record, producer))).await;
        let mut trouble = None;
        for (record, sent) in records.iter().zip(sent) {
            let from = address(record);
            match sent {
                Ok(to) => {
                    stack.marks.add(record.offset(), record.offset());
                    totals.replayed += 1;
                    print(&format!("{from} is replayed as {to}\n"))?;
                }
                Err(Problem::Letter(error)) => {
                    totals.failed += 1;
                    print(&format!(
                        "{from} is not replayed: {}\n",
                        safe(&format!("{error:#}"))
                    ))?;
                }
                Err(Problem::Kafka(error)) => trouble = Some(error.context(format!("replaying {from}"))),
            }
        }
        let noted = stack.clone();
        let noting =
            self.blocking(move |mailbox| mailbox.remember(&noted).context("noting what was replayed"));
        noting.await?;
        trouble.map_or(Ok(()), Err)
    }

    /// Returns where the event is when all replicas have it.
    async fn publish(
        &self,
        record: &OwnedMessage,
        producer: &FutureProducer<Quiet>,
    ) -> Result<Address, Problem> {
        let (topic, original) = self.event(record).await.map_err(Problem::Letter)?;
        let event = original.as_ref().unwrap_or(record);
        let mut again = FutureRecord::<[u8], [u8]>::to(&topic).headers(letter::headers(record));
        again.key = record.key();
        again.payload = event.payload();
        match producer.send(again, TIMEOUT).await {
            Ok(delivery) => Ok(Address {
                partition: Partition::new(topic, delivery.partition),
                offset: delivery.offset,
            }),
            Err((error, _)) => Err(Problem::Kafka(anyhow!(error))),
        }
    }

    /// The topic that a letter's event belongs to and, where the letter is without its value, the event as it was there.
    async fn event(&self, record: &OwnedMessage) -> anyhow::Result<(String, Option<OwnedMessage>)> {
        let Some(origin) = letter::origin(record) else {
            bail!("it does not tell where it comes from")
        };
        let topic = &origin.partition.topic;
        if topics::dead_letters(topic) != record.topic() {
            bail!("it claims to come from {topic}, whose dead letters are elsewhere");
        }
        if !letter::is_without_value(record) {
            return Ok((topic.clone(), None));
        }
        let original = self.get(origin.clone()).await?;
        let original = original.filter(|original| original.key() == record.key());
        let original =
            original.ok_or_else(|| anyhow!("its value was too large for a letter, and {origin} is gone"))?;
        Ok((topic.clone(), Some(original)))
    }

    fn producer(&self) -> anyhow::Result<FutureProducer<Quiet>> {
        let mut client = self.kafka.client("commerce-indexer-dlq");
        reliably(&mut client);
        client
            .create_with_context(Quiet)
            .context("preparing the Kafka client")
    }
}

impl Totals {
    fn finish(self) -> anyhow::Result<()> {
        let replayed = counted(self.replayed, "letter is replayed", "letters are replayed");
        match (self.failed, self.replayed) {
            (0, 0) if self.before == 0 => print("there is no letter that was not replayed\n"),
            (0, _) => print(&format!("{replayed}\n")),
            (failed, _) => bail!("{replayed}, {failed} not"),
        }
    }
}
