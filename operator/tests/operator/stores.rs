//! Stores that only remember what was asked of them, and can be taken away.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use commerce_core::{
    index::{Found, IndexState, next_alias},
    owner::{Mark, Owner},
    topics::{self, Topic, TopicState},
};
use commerce_operator::reconcile::{
    stores::{Away, Stores},
    validate::{Elasticsearch, Kafka, Pipeline},
};
use serde_json::json;
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
    /// How many documents an index has; 0 of those that are not named.
    pub documents: Mutex<BTreeMap<String, u64>>,
    /// Elasticsearch deletes no index.
    pub keeps_indices: AtomicBool,
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
            documents: Mutex::default(),
            keeps_indices: AtomicBool::default(),
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
            documents: Mutex::default(),
            keeps_indices: AtomicBool::default(),
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

    /// Makes an index as the template says that takes live events, as `indexer rebuild --live` does.
    pub fn fill(&self, index: &str) {
        let mut found = self.index.lock().unwrap();
        let template = found.template.as_ref().unwrap()["template"].clone();
        let made =
            json!({ "aliases": {}, "settings": template["settings"], "mappings": template["mappings"] });
        found.indices.entry(index.to_owned()).or_insert(made);
        let (alias, _) = index.rsplit_once('-').unwrap().0.rsplit_once('-').unwrap();
        lead(&mut found, &next_alias(alias), index);
    }

    /// An index has missed an event.
    pub fn give_up(&self, index: &str) {
        self.index.lock().unwrap().indices.get_mut(index).unwrap()["aliases"] = json!({});
    }

    /// Names of the indices, and where the alias leads to.
    pub fn indices(&self) -> (Vec<String>, Vec<String>) {
        let found = self.index.lock().unwrap();
        let behind = found.behind("orders").into_iter().map(str::to_owned).collect();
        (found.indices.keys().cloned().collect(), behind)
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

/// Lets an alias lead to one index.
fn lead(found: &mut Found, alias: &str, index: &str) {
    for (name, of) in &mut found.indices {
        let aliases = of["aliases"].as_object_mut().unwrap();
        if name == index {
            aliases.insert(alias.to_owned(), json!({ "is_write_index": true }));
        } else {
            aliases.shift_remove(alias);
        }
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
            found.template = Found::as_wanted(spec).template;
            let state = IndexState::of(spec, &found);
            if found.active(spec).is_some() && matches!(state, IndexState::MappingDiffers { .. }) {
                return state;
            }
            *found = Found::as_wanted(spec);
            IndexState::of(spec, &found)
        };
        self.change("Elasticsearch", "index", make).await
    }

    async fn promote_index(&self, elasticsearch: &Elasticsearch, index: &str) -> Result<bool, String> {
        let promote = || {
            let alias = &elasticsearch.index.name;
            let mut found = self.index.lock().unwrap();
            let is_next = found.behind(&next_alias(alias)).contains(&index);
            if is_next {
                let aliases = found.indices.get_mut(index).unwrap()["aliases"].as_object_mut();
                aliases.unwrap().shift_remove(&next_alias(alias));
                lead(&mut found, alias, index);
            }
            is_next
        };
        self.change("Elasticsearch", &format!("promote {index}"), promote)
            .await
    }

    async fn delete_index(&self, _: &Elasticsearch, index: &str) -> Result<(), String> {
        if self.keeps_indices.load(Ordering::Relaxed) {
            return Err("403 Forbidden".to_owned());
        }
        let delete = || drop(self.index.lock().unwrap().indices.remove(index));
        self.change("Elasticsearch", &format!("delete {index}"), delete)
            .await
    }

    async fn documents(&self, _: &Elasticsearch, index: &str) -> Result<Option<u64>, String> {
        let count = || {
            let there = self.index.lock().unwrap().indices.contains_key(index);
            there.then(|| {
                self.documents
                    .lock()
                    .unwrap()
                    .get(index)
                    .copied()
                    .unwrap_or_default()
            })
        };
        self.read("Elasticsearch", count).await
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
