//! Stores that only remember what was asked of them, and can be taken away.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use commerce_core::{
    index::{Found, IndexState},
    owner::{Mark, Owner},
    topics::{self, Topic, TopicState},
};
use commerce_operator::reconcile::{
    stores::{Away, Stores},
    validate::{Elasticsearch, Kafka, Pipeline},
};
use sqlx::postgres::PgConnectOptions;

use crate::faults::Faults;

/// What was done, by the fake cluster and the fake stores, in one list.
pub type Journal = Arc<Mutex<Vec<String>>>;

const NO_ANSWER: &str = "no answer within 5 s";

#[derive(Debug)]
pub struct FakeStores {
    pub journal: Journal,
    pub away: Mutex<Vec<&'static str>>,
    /// The version of the schema that PostgreSQL has, and the one that the services need.
    pub schema: Mutex<(i64, i64)>,
    /// What Kafka has.
    pub topics: Mutex<BTreeMap<String, Topic>>,
    /// What Elasticsearch has.
    pub index: Mutex<Found>,
    /// Whose the tables are, while there are some, and the index.
    pub marks: Mutex<Marks>,
    faults: Faults,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marks {
    pub schema: Option<Owner>,
    pub index: Option<Owner>,
}

/// What the stores have of the pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub schema: i64,
    pub topics: BTreeMap<String, Topic>,
    pub index: Found,
    pub marks: Marks,
}

impl FakeStores {
    pub fn new(journal: Journal, faults: Faults) -> Self {
        Self {
            journal,
            away: Mutex::default(),
            schema: Mutex::new((1, 1)),
            topics: Mutex::default(),
            index: Mutex::default(),
            marks: Mutex::default(),
            faults,
        }
    }

    /// Other stores that hold the same.
    pub fn copy(&self, faults: Faults) -> Self {
        let held = self.held();
        Self {
            journal: Journal::default(),
            away: Mutex::new(self.away.lock().unwrap().clone()),
            schema: Mutex::new(*self.schema.lock().unwrap()),
            topics: Mutex::new(held.topics),
            index: Mutex::new(held.index),
            marks: Mutex::new(held.marks),
            faults,
        }
    }

    pub fn held(&self) -> Held {
        Held {
            schema: self.schema.lock().unwrap().0,
            topics: self.topics.lock().unwrap().clone(),
            index: self.index.lock().unwrap().clone(),
            marks: self.marks.lock().unwrap().clone(),
        }
    }

    /// Takes stores away; an empty list brings all back.
    pub fn take_away(&self, stores: &[&'static str]) {
        *self.away.lock().unwrap() = stores.to_vec();
    }

    /// Asks a store.
    async fn read<T>(&self, store: &'static str, work: impl FnOnce() -> T) -> Result<T, String> {
        self.call(false, store, work).await
    }

    /// Changes something in a store.
    async fn change<T>(
        &self,
        store: &'static str,
        what: &str,
        work: impl FnOnce() -> T,
    ) -> Result<T, String> {
        self.call(true, store, || {
            self.journal.lock().unwrap().push(what.to_owned());
            work()
        })
        .await
    }

    async fn call<T>(
        &self,
        writes: bool,
        store: &'static str,
        work: impl FnOnce() -> T,
    ) -> Result<T, String> {
        let work = || {
            let away = self.away.lock().unwrap().contains(&store);
            (!away).then(work)
        };
        let answer = self.faults.call(writes, work).await.flatten();
        answer.ok_or_else(|| NO_ANSWER.to_owned())
    }
}

#[async_trait]
impl Stores for FakeStores {
    async fn away(&self, _: &Pipeline) -> Vec<Away> {
        let all = ["PostgreSQL", "Kafka", "Elasticsearch", "Redis"];
        let away = self
            .faults
            .call(false, || self.away.lock().unwrap().clone())
            .await;
        away.unwrap_or_else(|| all.to_vec())
            .into_iter()
            .map(|store| Away {
                store,
                field: "spec",
                problem: NO_ANSWER.to_owned(),
            })
            .collect()
    }

    async fn schema_version(&self, _: &PgConnectOptions) -> Result<(i64, i64), String> {
        self.read("PostgreSQL", || *self.schema.lock().unwrap()).await
    }

    async fn read_topics(&self, _: &Kafka) -> Result<BTreeMap<String, Topic>, String> {
        self.read("Kafka", || self.topics.lock().unwrap().clone()).await
    }

    async fn ensure_topics(&self, kafka: &Kafka) -> Result<Vec<TopicState>, String> {
        let make = || {
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
            states
        };
        self.change("Kafka", "topics", make).await
    }

    async fn read_index(&self, _: &Elasticsearch) -> Result<Found, String> {
        self.read("Elasticsearch", || self.index.lock().unwrap().clone())
            .await
    }

    async fn ensure_index(&self, elasticsearch: &Elasticsearch) -> Result<IndexState, String> {
        let make = || {
            let spec = &elasticsearch.index;
            let mut found = self.index.lock().unwrap();
            let state = IndexState::of(spec, &found);
            if found.active(spec).is_some() && matches!(state, IndexState::MappingDiffers { .. }) {
                return state;
            }
            *found = Found::as_wanted(spec);
            IndexState::of(spec, &found)
        };
        self.change("Elasticsearch", "index", make).await
    }

    async fn schema_mark(&self, _: &PgConnectOptions) -> Result<Mark, String> {
        self.read("PostgreSQL", || match self.schema.lock().unwrap().0 {
            0 => Mark::Unmarkable,
            _ => self.marks.lock().unwrap().schema.clone().into(),
        })
        .await
    }

    async fn mark_schema(
        &self,
        _: &PgConnectOptions,
        owner: &Owner,
        found: Option<&Owner>,
    ) -> Result<bool, String> {
        self.change("PostgreSQL", "mark schema", || {
            let mut marks = self.marks.lock().unwrap();
            let fits = marks.schema.as_ref() == found;
            if fits {
                marks.schema = Some(owner.clone());
            }
            fits
        })
        .await
    }

    async fn unmark_schema(&self, _: &PgConnectOptions, uid: &str) -> Result<(), String> {
        self.change("PostgreSQL", "unmark schema", || {
            self.marks
                .lock()
                .unwrap()
                .schema
                .take_if(|owner| owner.uid == uid);
        })
        .await
    }

    async fn index_mark(&self, _: &Elasticsearch) -> Result<Mark, String> {
        self.read("Elasticsearch", || {
            self.marks.lock().unwrap().index.clone().into()
        })
        .await
    }

    async fn mark_index(&self, _: &Elasticsearch, owner: &Owner, new: bool) -> Result<bool, String> {
        self.change("Elasticsearch", "mark index", || {
            let mut marks = self.marks.lock().unwrap();
            let fits = !new || marks.index.is_none();
            if fits {
                marks.index = Some(owner.clone());
            }
            fits
        })
        .await
    }

    async fn unmark_index(&self, _: &Elasticsearch, uid: &str) -> Result<(), String> {
        self.change("Elasticsearch", "unmark index", || {
            self.marks.lock().unwrap().index.take_if(|owner| owner.uid == uid);
        })
        .await
    }

    async fn remove_topics(&self, _: &Kafka) -> Result<(), String> {
        self.change("Kafka", "remove topics", || self.topics.lock().unwrap().clear())
            .await
    }

    async fn remove_index(&self, _: &Elasticsearch) -> Result<(), String> {
        let remove = || {
            *self.index.lock().unwrap() = Found::default();
            self.marks.lock().unwrap().index = None;
        };
        self.change("Elasticsearch", "remove index", remove).await
    }

    async fn remove_schema(&self, _: &PgConnectOptions) -> Result<(), String> {
        self.change("PostgreSQL", "remove schema", || {
            self.schema.lock().unwrap().0 = 0;
            self.marks.lock().unwrap().schema = None;
        })
        .await
    }
}
