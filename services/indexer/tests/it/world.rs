//! What the tests share: topics, an index and keys of their own, indexers on them, and ways to look at the result.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use commerce_core::{
    config::Env,
    elasticsearch::{ElasticsearchConfig, body, body_if_found},
    event::{EventType, OrderEvent},
    index::{self, IndexSpec},
    kafka::KafkaConfig,
    redis::RedisConfig,
    testing::{Elasticsearch, Kafka, Redis, shared},
    topics::{self, TopicSpec},
    trace::TRACEPARENT,
};
use commerce_indexer::Config;
use elasticsearch::{CountParts, GetParts, SearchParts, indices::IndicesRefreshParts};
use futures::future::join_all;
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _, StreamConsumer},
    message::{Header, Headers as _, OwnedHeaders, OwnedMessage},
    producer::{FutureProducer, FutureRecord},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    events::Expected,
    running::{PATIENCE, Running, eventually},
};

pub(crate) const CREATED: &str = "order.created";
pub(crate) const CANCELLED: &str = "order.cancelled";

pub(crate) struct World {
    pub(crate) kafka: KafkaConfig,
    pub(crate) elasticsearch: ElasticsearchConfig,
    pub(crate) redis: RedisConfig,
    pub(crate) redis_url: String,
    pub(crate) client: elasticsearch::Elasticsearch,
    producer: FutureProducer,
}

/// A record of a dead-letter topic.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) record: OwnedMessage,
    pub(crate) headers: BTreeMap<String, String>,
}

impl World {
    /// On the stores that all tests share, with topics and index in place.
    pub(crate) async fn new() -> Result<Self> {
        Self::empty().await?.ready().await
    }

    /// Without topics and index.
    pub(crate) async fn empty() -> Result<Self> {
        let kafka = shared().kafka_config().await?;
        let elasticsearch = shared().elasticsearch_config().await?;
        let redis = shared().redis_config().await?;
        let redis_url = shared().redis().await?.url();
        Self::of(kafka, elasticsearch, redis, redis_url)
    }

    pub(crate) async fn with_own_elasticsearch(store: &Elasticsearch) -> Result<Self> {
        let shared = Self::empty().await?;
        let own = ElasticsearchConfig::open(store.url().clone(), "orders");
        Self::of(shared.kafka, own, shared.redis, shared.redis_url)?
            .ready()
            .await
    }

    pub(crate) async fn with_own_kafka(store: &Kafka) -> Result<Self> {
        let shared = Self::empty().await?;
        let own = KafkaConfig::plaintext(store.bootstrap(), "own.");
        Self::of(own, shared.elasticsearch, shared.redis, shared.redis_url)?
            .ready()
            .await
    }

    pub(crate) async fn with_own_kafka_and_elasticsearch(
        kafka: &Kafka,
        elasticsearch: &Elasticsearch,
    ) -> Result<Self> {
        let shared = Self::empty().await?;
        let kafka = KafkaConfig::plaintext(kafka.bootstrap(), "own.");
        let elasticsearch = ElasticsearchConfig::open(elasticsearch.url().clone(), "orders");
        Self::of(kafka, elasticsearch, shared.redis, shared.redis_url)?
            .ready()
            .await
    }

    pub(crate) async fn with_own_redis(store: &Redis) -> Result<Self> {
        let shared = Self::empty().await?;
        let own = RedisConfig::new(&store.url().as_str().into(), "own:").context("the URL of Redis")?;
        Self::of(shared.kafka, shared.elasticsearch, own, store.url())?
            .ready()
            .await
    }

    async fn ready(self) -> Result<Self> {
        self.create_topics().await?;
        self.create_index().await?;
        Ok(self)
    }

    fn of(
        kafka: KafkaConfig,
        elasticsearch: ElasticsearchConfig,
        redis: RedisConfig,
        redis_url: String,
    ) -> Result<Self> {
        let client = elasticsearch.client(Duration::from_secs(30))?;
        let mut producer = kafka.client("test");
        // No record twice, whatever happens to Kafka.
        producer.set("linger.ms", "5").set("enable.idempotence", "true");
        Ok(Self {
            kafka,
            elasticsearch,
            redis,
            redis_url,
            client,
            producer: producer.create()?,
        })
    }

    pub(crate) async fn create_topics(&self) -> Result<()> {
        let spec = TopicSpec {
            partitions: 3,
            replication_factor: 1,
            config: BTreeMap::new(),
        };
        topics::ensure(&self.kafka, &spec).await?;
        Ok(())
    }

    /// Refreshed by nobody but the indexer.
    pub(crate) async fn create_index(&self) -> Result<()> {
        self.create_index_with(|_| {}).await
    }

    pub(crate) async fn create_index_with(&self, change: impl FnOnce(&mut IndexSpec)) -> Result<()> {
        let mut spec = IndexSpec::new(&self.elasticsearch.index);
        spec.refresh_interval = "-1".into();
        change(&mut spec);
        index::ensure(&self.client, &spec).await?;
        Ok(())
    }

    /// The environment of an indexer.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ADMIN_ADDR", "127.0.0.1:0".to_owned()),
            ("KAFKA_BOOTSTRAP_SERVERS", self.kafka.bootstrap_servers.clone()),
            ("KAFKA_TOPIC_PREFIX", self.kafka.topic_prefix.clone()),
            ("KAFKA_GROUP_ID", self.group_id()),
            ("ELASTICSEARCH_URL", self.elasticsearch.url.to_string()),
            ("ELASTICSEARCH_INDEX", self.elasticsearch.index.clone()),
            ("REDIS_URL", self.redis_url.clone()),
            ("REDIS_KEY_PREFIX", self.redis.key_prefix.clone()),
        ]
    }

    fn group_id(&self) -> String {
        format!("{}indexer", self.kafka.topic_prefix)
    }

    pub(crate) async fn start(&self) -> Result<Running> {
        self.start_with(&[]).await
    }

    pub(crate) async fn start_with(&self, more: &[(&'static str, &str)]) -> Result<Running> {
        let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let config = Config::from_env(Env::from_pairs(self.environment().into_iter().chain(more)))?;
        Running::start(config).await
    }

    /// Publishes events to their topics, in this order per topic and order id.
    pub(crate) async fn publish(&self, events: &[OrderEvent]) -> Result<()> {
        let records = events.iter().map(|event| {
            let value = serde_json::to_vec(event)?;
            Ok((event.event_type.topic(), event.order_id.as_str(), value))
        });
        self.publish_raw(records.collect::<Result<Vec<_>>>()?).await
    }

    pub(crate) async fn publish_raw(&self, records: Vec<(&str, &str, Vec<u8>)>) -> Result<()> {
        for chunk in records.chunks(10_000) {
            let sent = chunk.iter().map(|(topic, key, value)| {
                let topic = self.kafka.topic(topic);
                async move {
                    let record = FutureRecord::to(&topic).key(*key).payload(value);
                    self.producer.send(record, PATIENCE).await
                }
            });
            for result in join_all(sent).await {
                result.map_err(|(error, _)| error)?;
            }
        }
        Ok(())
    }

    /// Publishes one event with a trace context.
    pub(crate) async fn publish_traced(&self, event: &OrderEvent, traceparent: &str) -> Result<()> {
        let (topic, value) = (
            self.kafka.topic(event.event_type.topic()),
            serde_json::to_vec(event)?,
        );
        let header = Header {
            key: TRACEPARENT,
            value: Some(traceparent),
        };
        let record = FutureRecord::to(&topic)
            .key(&event.order_id)
            .payload(&value)
            .headers(OwnedHeaders::new().insert(header));
        self.producer
            .send(record, PATIENCE)
            .await
            .map_err(|(error, _)| error)?;
        Ok(())
    }

    /// The document as it is, whether searches find it or not.
    pub(crate) async fn document(&self, id: &str) -> Result<Option<Value>> {
        let answer = self
            .client
            .get(GetParts::IndexId(&self.elasticsearch.index, id))
            .send()
            .await;
        Ok(body_if_found("get a document", answer)
            .await?
            .map(|mut found| found["_source"].take()))
    }

    /// How many documents searches find.
    pub(crate) async fn searchable(&self) -> Result<u64> {
        self.searchable_of(json!({"match_all": {}})).await
    }

    pub(crate) async fn searchable_of(&self, query: Value) -> Result<u64> {
        let index = [self.elasticsearch.index.as_str()];
        let count = self.client.count(CountParts::Index(&index));
        let answer = body("count", count.body(json!({"query": query})).send().await).await?;
        answer["count"].as_u64().context("a count")
    }

    /// Waits until searches find exactly so many documents.
    pub(crate) async fn wait_until_searchable(&self, count: u64) -> Result<()> {
        eventually(&format!("{count} searchable documents"), async || {
            let found = self.searchable().await.map_err(|error| error.to_string())?;
            if found == count {
                Ok(())
            } else {
                Err(format!("{found} documents"))
            }
        })
        .await
    }

    /// All documents (10,000 at most), by order id.
    pub(crate) async fn documents(&self) -> Result<BTreeMap<String, Value>> {
        let index = [self.elasticsearch.index.as_str()];
        body(
            "refresh",
            self.client
                .indices()
                .refresh(IndicesRefreshParts::Index(&index))
                .send()
                .await,
        )
        .await?;
        let answer = self
            .client
            .search(SearchParts::Index(&index))
            .size(10_000)
            .send()
            .await;
        let mut answer = body("search", answer).await?;
        let hits = answer["hits"]["hits"].as_array_mut().context("hits")?;
        let entry = |hit: &mut Value| Some((hit["_id"].as_str()?.to_owned(), hit["_source"].take()));
        hits.iter_mut().map(|hit| entry(hit).context("a hit")).collect()
    }

    /// The index holds these orders in these states, and no others.
    pub(crate) async fn assert_holds(&self, expected: &Expected) -> Result<()> {
        let found = self.documents().await?;
        let state = |document: &Value| {
            (
                document["version"].as_i64().unwrap_or(0),
                document["status"].as_str().unwrap_or("").to_owned(),
            )
        };
        let found: BTreeMap<_, _> = found
            .iter()
            .map(|(id, document)| (id.clone(), state(document)))
            .collect();
        let expected: BTreeMap<_, _> = expected
            .iter()
            .map(|(id, (version, status))| (id.clone(), (*version, (*status).to_owned())))
            .collect();
        let differing: Vec<_> = expected
            .iter()
            .filter(|(id, state)| found.get(*id) != Some(state))
            .map(|(id, state)| format!("{id}: expected {state:?}, found {:?}", found.get(id)))
            .take(10)
            .collect();
        assert!(differing.is_empty(), "{differing:#?}");
        assert_eq!(
            found.len(),
            expected.len(),
            "there are documents that nobody expects"
        );
        Ok(())
    }

    /// Everything in the dead-letter topics.
    pub(crate) async fn letters(&self) -> Result<Vec<Letter>> {
        let names = EventType::ALL.map(|event| topics::dead_letters(&self.kafka.topic(event.topic())));
        let consumer: StreamConsumer = self
            .kafka
            .client("test")
            .set("group.id", "test-letters")
            .set("enable.auto.commit", "false")
            .create()?;
        let mut list = TopicPartitionList::new();
        let mut count = 0;
        for topic in &names {
            for partition in 0..3 {
                let (low, high) = consumer.fetch_watermarks(topic, partition, PATIENCE)?;
                count += high - low;
                list.add_partition_offset(topic, partition, Offset::Beginning)?;
            }
        }
        consumer.assign(&list)?;
        let mut letters = Vec::new();
        for _ in 0..count {
            let record = timeout(PATIENCE, consumer.recv())
                .await
                .context("a dead letter")??
                .detach();
            let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
            let headers = record.headers().map_or_else(BTreeMap::new, |headers| {
                headers
                    .iter()
                    .map(|header| (header.key.to_owned(), text(header.value)))
                    .collect()
            });
            letters.push(Letter { record, headers });
        }
        letters.sort_by_key(|letter| {
            letter
                .headers
                .get("dlq-offset")
                .and_then(|offset| offset.parse::<i64>().ok())
        });
        Ok(letters)
    }

    /// What the group has not committed, of all partitions.
    pub(crate) fn lag(&self) -> Result<i64> {
        let consumer: StreamConsumer = self
            .kafka
            .client("test")
            .set("group.id", self.group_id())
            .create()?;
        let mut list = TopicPartitionList::new();
        for event in EventType::ALL {
            list.add_partition_range(&self.kafka.topic(event.topic()), 0, 2);
        }
        let mut lag = 0;
        for element in consumer.committed_offsets(list, PATIENCE)?.elements() {
            let (low, high) = consumer.fetch_watermarks(element.topic(), element.partition(), PATIENCE)?;
            lag += high
                - element
                    .offset()
                    .to_raw()
                    .filter(|offset| *offset >= 0)
                    .unwrap_or(low);
        }
        Ok(lag)
    }

    pub(crate) async fn wait_until_committed(&self) -> Result<()> {
        eventually("no lag", async || match self.lag() {
            Ok(0) => Ok(()),
            Ok(lag) => Err(format!("lag {lag}")),
            Err(error) => Err(error.to_string()),
        })
        .await
    }

    /// Forgets where the group was: its next member starts at the first event.
    pub(crate) async fn reset_group(&self) -> Result<()> {
        let consumer: StreamConsumer = self
            .kafka
            .client("test")
            .set("group.id", self.group_id())
            .create()?;
        let mut list = TopicPartitionList::new();
        for event in EventType::ALL {
            for partition in 0..3 {
                list.add_partition_offset(&self.kafka.topic(event.topic()), partition, Offset::Offset(0))?;
            }
        }
        eventually("a committed reset", async || {
            consumer
                .commit(&list, CommitMode::Sync)
                .map_err(|error| error.to_string())
        })
        .await
    }
}
