//! Stores that only remember what was asked of them, and can be taken away.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use commerce_core::{
    index::{Found, IndexState},
    topics::{self, Topic, TopicState},
};
use commerce_operator::reconcile::{
    stores::{Away, Stores},
    validate::{Elasticsearch, Kafka, Pipeline},
};
use sqlx::postgres::PgConnectOptions;

/// What was done, by the fake cluster and the fake stores, in one list.
pub type Journal = Arc<Mutex<Vec<String>>>;

#[derive(Debug)]
pub struct FakeStores {
    pub journal: Journal,
    pub away: Mutex<Vec<&'static str>>,
    pub schema: Mutex<(i64, i64)>,
    /// What Kafka has.
    pub topics: Mutex<BTreeMap<String, Topic>>,
    /// What Elasticsearch has.
    pub index: Mutex<Found>,
}

impl FakeStores {
    pub fn new(journal: Journal) -> Self {
        Self {
            journal,
            away: Mutex::default(),
            schema: Mutex::new((1, 1)),
            topics: Mutex::default(),
            index: Mutex::default(),
        }
    }

    /// Takes stores away; an empty list brings all back.
    pub fn take_away(&self, stores: &[&'static str]) {
        *self.away.lock().unwrap() = stores.to_vec();
    }

    fn answers(&self, store: &'static str) -> Result<(), String> {
        if self.away.lock().unwrap().contains(&store) {
            Err("no answer within 5 s".to_owned())
        } else {
            Ok(())
        }
    }

    fn did(&self, store: &'static str, what: &str) -> Result<(), String> {
        self.journal.lock().unwrap().push(what.to_owned());
        self.answers(store)
    }
}

#[async_trait]
impl Stores for FakeStores {
    async fn away(&self, _: &Pipeline) -> Vec<Away> {
        let away = self.away.lock().unwrap();
        away.iter()
            .map(|store| Away {
                store,
                field: "spec",
                problem: "no answer within 5 s".to_owned(),
            })
            .collect()
    }

    async fn schema_version(&self, _: &PgConnectOptions) -> Result<(i64, i64), String> {
        Ok(*self.schema.lock().unwrap())
    }

    async fn read_topics(&self, _: &Kafka) -> Result<BTreeMap<String, Topic>, String> {
        self.answers("Kafka")?;
        Ok(self.topics.lock().unwrap().clone())
    }

    async fn ensure_topics(&self, kafka: &Kafka) -> Result<Vec<TopicState>, String> {
        self.did("Kafka", "topics")?;
        let mut topics = self.topics.lock().unwrap();
        let mut states = Vec::new();
        for name in topics::names(&kafka.connect) {
            let topic = topics.entry(name.clone()).or_default();
            topic.replication_factor = topic.replication_factor.max(kafka.topics.replication_factor);
            topic.partitions = topic.partitions.max(kafka.topics.partitions);
            topic.config.extend(kafka.topics.config.clone());
            states.push(TopicState {
                name,
                partitions: topic.partitions,
                changed: true,
            });
        }
        Ok(states)
    }

    async fn read_index(&self, _: &Elasticsearch) -> Result<Found, String> {
        self.answers("Elasticsearch")?;
        Ok(self.index.lock().unwrap().clone())
    }

    async fn ensure_index(&self, elasticsearch: &Elasticsearch) -> Result<IndexState, String> {
        self.did("Elasticsearch", "index")?;
        let spec = &elasticsearch.index;
        let mut found = self.index.lock().unwrap();
        let state = IndexState::of(spec, &found);
        if found.active(spec).is_some() && matches!(state, IndexState::MappingDiffers { .. }) {
            return Ok(state);
        }
        *found = Found::as_wanted(spec);
        Ok(IndexState::of(spec, &found))
    }

    async fn remove_topics(&self, _: &Kafka) -> Result<(), String> {
        self.did("Kafka", "remove topics")
    }

    async fn remove_index(&self, _: &Elasticsearch) -> Result<(), String> {
        self.did("Elasticsearch", "remove index")
    }

    async fn remove_schema(&self, _: &PgConnectOptions) -> Result<(), String> {
        self.did("PostgreSQL", "remove schema")
    }
}
