//! The stores of a plan: looked at, never changed. One that can't be reached from here is told, and taken to be fine.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use commerce_core::{
    drift::{Difference, What},
    index::{Found, IndexSpec, IndexState},
    owner::{Mark, Owner},
    postgres,
    topics::{self, Topic, TopicState},
};
use serde::Serialize;
use sqlx::postgres::PgConnectOptions;

use crate::{
    crd::Migrations,
    reconcile::{
        stores::{Away, Remote, Stores},
        validate::{Elasticsearch, Kafka, Pipeline},
    },
};

/// What a plan wants to know of the stores: all that can be read, and nothing that can be written.
#[async_trait]
pub trait Survey: fmt::Debug + Send + Sync {
    /// The stores that are away.
    async fn away(&self, pipeline: &Pipeline) -> Vec<Away>;
    /// The version of the schema, and the one that the services need.
    async fn schema_version(&self, postgres: &PgConnectOptions) -> Result<(i64, i64), String>;
    /// The topics that exist.
    async fn topics(&self, kafka: &Kafka) -> Result<BTreeMap<String, Topic>, String>;
    /// What there is of template, index and alias.
    async fn index(&self, elasticsearch: &Elasticsearch) -> Result<Found, String>;
    /// Whose tables these are.
    async fn schema_mark(&self, postgres: &PgConnectOptions) -> Result<Mark, String>;
    /// Whose index this is.
    async fn index_mark(&self, elasticsearch: &Elasticsearch) -> Result<Mark, String>;
}

#[async_trait]
impl Survey for Remote {
    async fn away(&self, pipeline: &Pipeline) -> Vec<Away> {
        Stores::away(self, pipeline).await
    }

    async fn schema_version(&self, postgres: &PgConnectOptions) -> Result<(i64, i64), String> {
        Stores::schema_version(self, postgres).await
    }

    async fn topics(&self, kafka: &Kafka) -> Result<BTreeMap<String, Topic>, String> {
        self.read_topics(kafka).await
    }

    async fn index(&self, elasticsearch: &Elasticsearch) -> Result<Found, String> {
        self.read_index(elasticsearch).await
    }

    async fn schema_mark(&self, postgres: &PgConnectOptions) -> Result<Mark, String> {
        Stores::schema_mark(self, postgres).await
    }

    async fn index_mark(&self, elasticsearch: &Elasticsearch) -> Result<Mark, String> {
        Stores::index_mark(self, elasticsearch).await
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
    seen: Mutex<Seen>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    changes: Vec<StoreChange>,
    away: Vec<Away>,
    /// A Job brings the schema up to date.
    migrates: bool,
}

impl Unchanged {
    #[must_use]
    pub fn new(survey: Arc<dyn Survey>) -> Self {
        Self {
            survey,
            seen: Mutex::default(),
        }
    }

    /// What would change, and what could not be looked at.
    #[must_use]
    pub fn found(&self) -> (Vec<StoreChange>, Vec<String>) {
        let Seen { changes, away, .. } = self.lock().clone();
        let unseen = |away: Away| format!("not looked at: {away}");
        (changes, away.into_iter().map(unseen).collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_away(&self, store: &str) -> bool {
        self.lock().away.iter().any(|away| away.store == store)
    }

    fn would(&self, store: &'static str, what: String) {
        let change = StoreChange { store, what };
        let mut seen = self.lock();
        if !seen.changes.contains(&change) {
            seen.changes.push(change);
        }
    }
}

const UNUSED: &str = "a plan removes nothing";

#[async_trait]
impl Stores for Unchanged {
    async fn away(&self, pipeline: &Pipeline) -> Vec<Away> {
        let away = self.survey.away(pipeline).await;
        let migrates = pipeline.postgres.migrations == Migrations::Auto;
        {
            let mut seen = self.lock();
            seen.away = away;
            seen.migrates = migrates;
        }
        if migrates && !self.is_away("PostgreSQL") {
            match self.survey.schema_version(&pipeline.postgres.connect).await {
                Ok((found, needed)) if found < needed => {
                    self.would(
                        "PostgreSQL",
                        format!("schema: version {found} -> {needed}, by the migration Job"),
                    );
                }
                Ok(_) => {}
                // The database may not be there yet, which the Job makes.
                Err(problem) => self.would(
                    "PostgreSQL",
                    format!(
                        "schema: version {}, by the migration Job; what there is can't be read: {problem}",
                        postgres::latest_version()
                    ),
                ),
            }
        }
        Vec::new()
    }

    async fn schema_version(&self, postgres: &PgConnectOptions) -> Result<(i64, i64), String> {
        let migrated = (postgres::latest_version(), postgres::latest_version());
        if self.is_away("PostgreSQL") {
            return Ok(migrated);
        }
        match self.survey.schema_version(postgres).await {
            Err(_) if self.lock().migrates => Ok(migrated),
            other => other,
        }
    }

    async fn read_topics(&self, kafka: &Kafka) -> Result<BTreeMap<String, Topic>, String> {
        if !self.is_away("Kafka") {
            return self.survey.topics(kafka).await;
        }
        let spec = &kafka.topics;
        let wanted = Topic {
            partitions: spec.partitions,
            replication_factor: spec.replication_factor,
            config: spec.config.clone(),
            own: BTreeMap::new(),
        };
        let names = topics::names(&kafka.connect).into_iter();
        Ok(names.map(|name| (name, wanted.clone())).collect())
    }

    async fn ensure_topics(&self, kafka: &Kafka) -> Result<Vec<TopicState>, String> {
        let (found, spec) = (self.read_topics(kafka).await?, &kafka.topics);
        for difference in topics::differences(&kafka.connect, spec, &found) {
            if let Some(what) = change(&difference, || {
                format!(
                    "new, with {} partitions and replication factor {}",
                    spec.partitions, spec.replication_factor
                )
            }) {
                self.would("Kafka", what);
            }
        }
        let state = |name: String| TopicState {
            partitions: found
                .get(&name)
                .map_or(spec.partitions, |topic| topic.partitions.max(spec.partitions)),
            changed: false,
            name,
        };
        Ok(topics::names(&kafka.connect).into_iter().map(state).collect())
    }

    async fn read_index(&self, elasticsearch: &Elasticsearch) -> Result<Found, String> {
        if self.is_away("Elasticsearch") {
            Ok(Found::as_wanted(&elasticsearch.index))
        } else {
            self.survey.index(elasticsearch).await
        }
    }

    async fn ensure_index(&self, elasticsearch: &Elasticsearch) -> Result<IndexState, String> {
        let (found, spec) = (self.read_index(elasticsearch).await?, &elasticsearch.index);
        let after = after(spec, &found);
        let (IndexState::Active { index, .. } | IndexState::MappingDiffers { active: index, .. }) = &after;
        let alias = format!("alias {}", spec.name);
        for difference in found.differences(spec) {
            let new = || match difference.object == alias {
                true if !found.indices.contains_key(index) => format!("new, to the new index {index}"),
                true => format!("new, to the index {index}"),
                false => "new".to_owned(),
            };
            if let Some(what) = change(&difference, new) {
                self.would("Elasticsearch", what);
            }
        }
        Ok(after)
    }

    async fn promote_index(&self, elasticsearch: &Elasticsearch, index: &str) -> Result<bool, String> {
        let (found, spec) = (self.read_index(elasticsearch).await?, &elasticsearch.index);
        let active = found.active(spec).unwrap_or_default();
        let what = format!(
            "alias {}: index: {active} -> {index}, which is filled from PostgreSQL first while {active} serves",
            spec.name
        );
        self.would("Elasticsearch", what);
        Ok(true)
    }

    async fn delete_index(&self, _: &Elasticsearch, index: &str) -> Result<(), String> {
        self.would("Elasticsearch", format!("index {index}: deleted"));
        Ok(())
    }

    async fn documents(&self, _: &Elasticsearch, _: &str) -> Result<Option<u64>, String> {
        Err("a plan counts no documents".to_owned())
    }

    async fn schema_mark(&self, postgres: &PgConnectOptions) -> Result<Mark, String> {
        if self.is_away("PostgreSQL") {
            return Ok(Mark::Unmarkable);
        }
        match self.survey.schema_mark(postgres).await {
            Err(_) if self.lock().migrates => Ok(Mark::Unmarkable),
            other => other,
        }
    }

    /// That a pipeline marks what it uses goes without saying.
    async fn mark_schema(&self, _: &PgConnectOptions, _: &Owner, _: Option<&Owner>) -> Result<bool, String> {
        Ok(true)
    }

    async fn unmark_schema(&self, _: &PgConnectOptions, _: &str) -> Result<(), String> {
        Err(UNUSED.to_owned())
    }

    async fn index_mark(&self, elasticsearch: &Elasticsearch) -> Result<Mark, String> {
        if self.is_away("Elasticsearch") {
            return Ok(Mark::Unmarkable);
        }
        self.survey.index_mark(elasticsearch).await
    }

    async fn mark_index(&self, _: &Elasticsearch, _: &Owner, _: bool) -> Result<bool, String> {
        Ok(true)
    }

    async fn unmark_index(&self, _: &Elasticsearch, _: &str) -> Result<(), String> {
        Err(UNUSED.to_owned())
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

/// A difference as the change that would put it right; `None` where nothing would. `new` tells of what does not exist.
fn change(difference: &Difference, new: impl FnOnce() -> String) -> Option<String> {
    if difference.stays.is_some() {
        return None;
    }
    let object = &difference.object;
    Some(match &difference.what {
        What::Missing => format!("{object}: {}", new()),
        What::Field { name, found, wanted } => {
            let said = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
            format!("{object}: {name}: {} -> {}", said(found), said(wanted))
        }
    })
}

/// What `commerce_core::index::ensure` would leave.
fn after(spec: &IndexSpec, found: &Found) -> IndexState {
    if found.active(spec).is_some() {
        return IndexState::of(spec, found);
    }
    let mut made = found.indices.keys();
    let fitting = made.clone().find(|index| spec.fits(index));
    match fitting.or_else(|| made.next()) {
        Some(index) if !spec.fits(index) => IndexState::MappingDiffers {
            active: index.clone(),
            wanted: spec.wanted_index(),
        },
        index => IndexState::Active {
            index: index.cloned().unwrap_or_else(|| spec.wanted_index()),
            created: false,
        },
    }
}
