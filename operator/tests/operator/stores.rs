//! Stores that only remember what was asked of them, and can be taken away.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use commerce_core::{index::IndexState, topics::TopicState};
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
    pub index: Mutex<IndexState>,
}

impl FakeStores {
    pub fn new(journal: Journal) -> Self {
        let index = IndexState::Active {
            index: "orders-0a1b2c3d-1".into(),
            created: true,
        };
        Self {
            journal,
            away: Mutex::default(),
            schema: Mutex::new((1, 1)),
            index: Mutex::new(index),
        }
    }

    /// Takes stores away; an empty list brings all back.
    pub fn take_away(&self, stores: &[&'static str]) {
        *self.away.lock().unwrap() = stores.to_vec();
    }

    fn did(&self, store: &'static str, what: &str) -> Result<(), String> {
        self.journal.lock().unwrap().push(what.to_owned());
        if self.away.lock().unwrap().contains(&store) {
            Err("no answer within 5 s".to_owned())
        } else {
            Ok(())
        }
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

    async fn ensure_topics(&self, kafka: &Kafka) -> Result<Vec<TopicState>, String> {
        self.did("Kafka", "topics")?;
        let name = kafka.connect.topic("order.created");
        Ok(vec![TopicState {
            name,
            partitions: kafka.topics.partitions,
            changed: false,
        }])
    }

    async fn ensure_index(&self, _: &Elasticsearch) -> Result<IndexState, String> {
        self.did("Elasticsearch", "index")?;
        Ok(self.index.lock().unwrap().clone())
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
