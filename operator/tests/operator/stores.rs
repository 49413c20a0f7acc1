//! Stores that only remember what was asked of them, and can be taken away.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use commerce_core::{index::IndexState, topics::TopicState};
use commerce_operator::reconcile::{
    stores::{Away, Stores},
    validate::{Elasticsearch, Kafka, Pipeline},
};
use sqlx::postgres::PgConnectOptions;

use crate::faults::Faults;

/// What was done, by the fake cluster and the fake stores, in one list.
pub type Journal = Arc<Mutex<Vec<String>>>;

#[derive(Debug)]
pub struct FakeStores {
    pub journal: Journal,
    pub away: Mutex<Vec<&'static str>>,
    pub schema: Mutex<(i64, i64)>,
    pub index: Mutex<IndexState>,
    /// What the pipeline has in the stores.
    pub holds: Mutex<BTreeSet<&'static str>>,
    pub faults: Faults,
}

impl FakeStores {
    pub fn new(journal: Journal, faults: Faults) -> Self {
        let index = IndexState::Active {
            index: "orders-0a1b2c3d-1".into(),
            created: true,
        };
        Self {
            journal,
            away: Mutex::default(),
            schema: Mutex::new((1, 1)),
            index: Mutex::new(index),
            holds: Mutex::default(),
            faults,
        }
    }

    /// Other stores that hold the same.
    pub fn copy(&self, faults: Faults) -> Self {
        Self {
            journal: Journal::default(),
            away: Mutex::new(self.away.lock().unwrap().clone()),
            schema: Mutex::new(*self.schema.lock().unwrap()),
            index: Mutex::new(self.index.lock().unwrap().clone()),
            holds: Mutex::new(self.holds.lock().unwrap().clone()),
            faults,
        }
    }

    /// Takes stores away; an empty list brings all back.
    pub fn take_away(&self, stores: &[&'static str]) {
        *self.away.lock().unwrap() = stores.to_vec();
    }

    /// Carries out a call that changes something, unless the store is away.
    async fn change(
        &self,
        store: &'static str,
        what: &str,
        change: impl FnOnce(&mut BTreeSet<&'static str>) -> bool,
    ) -> Result<(), String> {
        let work = || {
            self.journal.lock().unwrap().push(what.to_owned());
            let away = self.away.lock().unwrap().contains(&store);
            if !away {
                change(&mut self.holds.lock().unwrap());
            }
            !away
        };
        match self.faults.call(true, work).await {
            Some(true) => Ok(()),
            _ => Err("no answer within 5 s".to_owned()),
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
                problem: "no answer within 5 s".to_owned(),
            })
            .collect()
    }

    async fn schema_version(&self, _: &PgConnectOptions) -> Result<(i64, i64), String> {
        let version = self.faults.call(false, || *self.schema.lock().unwrap()).await;
        version.ok_or_else(|| "no answer within 5 s".to_owned())
    }

    async fn ensure_topics(&self, kafka: &Kafka) -> Result<Vec<TopicState>, String> {
        self.change("Kafka", "topics", |holds| holds.insert("topics"))
            .await?;
        let name = kafka.connect.topic("order.created");
        Ok(vec![TopicState {
            name,
            partitions: kafka.topics.partitions,
            changed: false,
        }])
    }

    async fn ensure_index(&self, _: &Elasticsearch) -> Result<IndexState, String> {
        self.change("Elasticsearch", "index", |holds| holds.insert("index"))
            .await?;
        Ok(self.index.lock().unwrap().clone())
    }

    async fn remove_topics(&self, _: &Kafka) -> Result<(), String> {
        self.change("Kafka", "remove topics", |holds| holds.remove("topics"))
            .await
    }

    async fn remove_index(&self, _: &Elasticsearch) -> Result<(), String> {
        self.change("Elasticsearch", "remove index", |holds| holds.remove("index"))
            .await
    }

    async fn remove_schema(&self, _: &PgConnectOptions) -> Result<(), String> {
        self.change("PostgreSQL", "remove schema", |holds| holds.remove("schema"))
            .await
    }
}
