//! The stores of a plan: looked at, never changed. One that can't be reached from here is told, and taken to be fine.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use commerce_core::{
    index::{self, IndexState},
    topics::{self, TopicState},
};
use serde::Serialize;
use sqlx::postgres::PgConnectOptions;

use crate::{
    crd::Migrations,
    reconcile::{
        error::chain,
        stores::{Away, Remote, Stores, TIMEOUT},
        validate::{Elasticsearch, Kafka, Pipeline},
    },
};

/// What a plan wants to know of the stores.
#[async_trait]
pub trait Survey: fmt::Debug + Send + Sync {
    /// The stores that are away.
    async fn away(&self, pipeline: &Pipeline) -> Vec<Away>;
    /// The version of the schema, and the one that the services need.
    async fn schema_version(&self, postgres: &PgConnectOptions) -> Result<(i64, i64), String>;
    /// The topics that there are, with their partitions.
    async fn partitions(&self, kafka: &Kafka) -> Result<BTreeMap<String, i32>, String>;
    /// The index behind the alias.
    async fn active_index(&self, elasticsearch: &Elasticsearch) -> Result<Option<String>, String>;
}

#[async_trait]
impl Survey for Remote {
    async fn away(&self, pipeline: &Pipeline) -> Vec<Away> {
        Stores::away(self, pipeline).await
    }

    async fn schema_version(&self, postgres: &PgConnectOptions) -> Result<(i64, i64), String> {
        Stores::schema_version(self, postgres).await
    }

    async fn partitions(&self, kafka: &Kafka) -> Result<BTreeMap<String, i32>, String> {
        topics::partitions(&kafka.connect)
            .await
            .map_err(|error| chain(&error))
    }

    async fn active_index(&self, elasticsearch: &Elasticsearch) -> Result<Option<String>, String> {
        let client = elasticsearch
            .connect
            .client(TIMEOUT)
            .map_err(|error| chain(&error))?;
        index::active_index(&client, &elasticsearch.index.name)
            .await
            .map_err(|error| chain(&error))
    }
}

/// One thing that would change in a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreChange {
    pub store: &'static str,
    pub what: String,
}

/// Stores that are only looked at.
#[derive(Debug)]
pub struct Unchanged {
    survey: Arc<dyn Survey>,
    found: Mutex<Found>,
}

#[derive(Clone, Debug, Default)]
struct Found {
    changes: Vec<StoreChange>,
    away: Vec<Away>,
}

impl Unchanged {
    #[must_use]
    pub fn new(survey: Arc<dyn Survey>) -> Self {
        Self {
            survey,
            found: Mutex::default(),
        }
    }

    /// What would change, and what could not be looked at.
    #[must_use]
    pub fn found(&self) -> (Vec<StoreChange>, Vec<String>) {
        let Found { changes, away } = self.lock().clone();
        let unseen = |away: Away| format!("not looked at: {away}");
        (changes, away.into_iter().map(unseen).collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_away(&self, store: &str) -> bool {
        self.lock().away.iter().any(|away| away.store == store)
    }

    fn would(&self, store: &'static str, what: String) {
        let change = StoreChange { store, what };
        let mut found = self.lock();
        if !found.changes.contains(&change) {
            found.changes.push(change);
        }
    }
}

const UNUSED: &str = "a plan removes nothing";

#[async_trait]
impl Stores for Unchanged {
    async fn away(&self, pipeline: &Pipeline) -> Vec<Away> {
        let away = self.survey.away(pipeline).await;
        self.lock().away = away;
        if pipeline.postgres.migrations == Migrations::Auto
            && !self.is_away("PostgreSQL")
            && let Ok((found, needed)) = self.survey.schema_version(&pipeline.postgres.connect).await
            && found < needed
        {
            self.would(
                "PostgreSQL",
                format!("schema: version {found} -> {needed}, by the migration Job"),
            );
        }
        Vec::new()
    }

    async fn schema_version(&self, postgres: &PgConnectOptions) -> Result<(i64, i64), String> {
        if self.is_away("PostgreSQL") {
            return Ok((0, 0));
        }
        self.survey.schema_version(postgres).await
    }

    async fn ensure_topics(&self, kafka: &Kafka) -> Result<Vec<TopicState>, String> {
        let wanted = kafka.topics.partitions;
        let found = if self.is_away("Kafka") {
            None
        } else {
            Some(self.survey.partitions(kafka).await?)
        };
        let mut states = Vec::new();
        for name in topics::names(&kafka.connect) {
            let before = found.as_ref().map(|found| found.get(&name).copied());
            match before {
                Some(None) => self.would(
                    "Kafka",
                    format!(
                        "topic {name}: new, with {wanted} partitions and replication factor {}",
                        kafka.topics.replication_factor
                    ),
                ),
                Some(Some(partitions)) if partitions < wanted => {
                    self.would(
                        "Kafka",
                        format!("topic {name}: {partitions} -> {wanted} partitions"),
                    );
                }
                _ => {}
            }
            let partitions = before
                .flatten()
                .map_or(wanted, |partitions| partitions.max(wanted));
            states.push(TopicState {
                name,
                partitions,
                changed: false,
            });
        }
        Ok(states)
    }

    async fn ensure_index(&self, elasticsearch: &Elasticsearch) -> Result<IndexState, String> {
        let spec = &elasticsearch.index;
        let family = format!("{}-{}-", spec.name, spec.hash());
        let wanted = format!("{family}1");
        let assumed = IndexState::Active {
            index: wanted.clone(),
            created: false,
        };
        if self.is_away("Elasticsearch") {
            return Ok(assumed);
        }
        match self.survey.active_index(elasticsearch).await? {
            None => {
                self.would(
                    "Elasticsearch",
                    format!("index {wanted}: new, behind the alias {}", spec.name),
                );
                Ok(assumed)
            }
            Some(active) if active.starts_with(&family) => Ok(IndexState::Active {
                index: active,
                created: false,
            }),
            Some(active) => Ok(IndexState::MappingDiffers { active, wanted }),
        }
    }

    async fn remove_topics(&self, _: &Kafka) -> Result<(), String> {
        Err(UNUSED.to_owned())
    }

    async fn remove_index(&self, _: &Elasticsearch) -> Result<(), String> {
        Err(UNUSED.to_owned())
    }

    async fn remove_schema(&self, _: &PgConnectOptions) -> Result<(), String> {
        Err(UNUSED.to_owned())
    }
}
