//! How far an order has come on its way from PostgreSQL through Kafka into the index.
//!
//! PostgreSQL knows when it was placed and cancelled, and whether its last event is published; the index knows the rest,
//! and may be away. An order's outbox row is found by the transaction that wrote both: the outbox has no index by order.

use chrono::{DateTime, Utc};
use commerce_core::{event::AGGREGATE_TYPE, order::Status};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, Row as _, postgres::PgRow};
use utoipa::ToSchema;

use super::{
    document::{Document, Indexed},
    read::{self, Order},
};

/// A row's `xmin` is the lower half of the id of the transaction that wrote it. The upper half is that of now or one less,
/// since an id is less than all that are yet to come.
const ORDER: &str = "
    select order_id, sku_id, quantity, user_id, status, version, correlation_id, created_at, updated_at,
           (horizon - ((horizon - xmin::text::bigint) & 4294967295))::text as xid
      from orders, (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as horizon) as now
     where order_id = $1";

/// Rows of one transaction have one `created_at`: it leads to the partition, and `xid` to the row.
const EVENT: &str = "
    select status, sent_at, correlation_id, discarded_at is not null as discarded
      from outbox_events
     where created_at = $1 and xid = $2::xid8
       and aggregate_type = $3 and aggregate_id = $4 and aggregate_version = $5";

/// What PostgreSQL knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    pub order: Order,
    /// When it got its current version.
    changed_at: DateTime<Utc>,
    /// The event of its current version, as long as the outbox has it.
    event: Option<Event>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    publishing: State,
    /// Somebody gave it up.
    discarded: bool,
    sent_at: Option<DateTime<Utc>>,
    /// Of the request that caused it.
    correlation_id: String,
}

/// An order's way from being placed to being found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeline {
    /// A decimal number, as text.
    #[schema(example = "42", pattern = "^[1-9][0-9]{0,18}$")]
    order_id: String,
    #[schema(value_type = String, pattern = "^(CREATED|CANCELLED)$", example = "CREATED")]
    status: Status,
    /// The version that the last three stages are about: 1 when created, 2 when cancelled.
    version: i64,
    /// In this order: `CREATED`, `CANCELLED` (only where it is), `PUBLISHED`, `INDEXED`, `SEARCHABLE`.
    stages: Vec<Stage>,
}

/// One stage, and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    #[serde(rename = "stage")]
    #[schema(value_type = String, pattern = "^(CREATED|CANCELLED|PUBLISHED|INDEXED|SEARCHABLE)$")]
    name: Name,
    /// `UNKNOWN`: whoever knows can't be asked.
    #[schema(value_type = String, pattern = "^(DONE|PENDING|FAILED|UNKNOWN)$")]
    state: State,
    /// When it was done, as far as that is recorded. When an order became searchable is not: between `INDEXED` and now.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<DateTime<Utc>>,
    /// Of the request that placed or cancelled the order.
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    /// Where Kafka has the event; known once it is indexed, unless the index was filled from PostgreSQL.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "shop.order.created")]
    topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
    /// What is behind a state other than `DONE`, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Name {
    Created,
    Cancelled,
    Published,
    Indexed,
    Searchable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum State {
    Done,
    Pending,
    Failed,
    Unknown,
}

/// What PostgreSQL knows of an order.
pub async fn history(pool: &PgPool, order_id: i64) -> Result<Option<History>, sqlx::Error> {
    let row = sqlx::query(ORDER).bind(order_id).fetch_optional(pool).await?;
    let Some(row) = row else { return Ok(None) };
    let order = read::from_row(&row)?;
    let changed_at = row.try_get("updated_at")?;
    let event = sqlx::query(EVENT)
        .bind::<DateTime<Utc>>(changed_at)
        .bind(row.try_get::<String, _>("xid")?)
        .bind(AGGREGATE_TYPE)
        .bind(&order.order_id)
        .bind(order.version)
        .try_map(|row: PgRow| {
            Ok(Event {
                publishing: match row.try_get("status")? {
                    "SENT" => State::Done,
                    "FAILED" => State::Failed,
                    _ => State::Pending,
                },
                discarded: row.try_get("discarded")?,
                sent_at: row.try_get("sent_at")?,
                correlation_id: row.try_get("correlation_id")?,
            })
        })
        .fetch_optional(pool)
        .await?;
    Ok(Some(History {
        order,
        changed_at,
        event,
    }))
}

impl Timeline {
    /// Puts together what PostgreSQL and the index know; `indexed` is `None` where the index can't be asked.
    #[must_use]
    pub fn new(history: History, indexed: Option<Indexed>) -> Self {
        let History {
            order,
            changed_at,
            event,
        } = history;
        let version = order.version;
        let current = |document: &Document| document.version >= version;
        let (searchable, written) = match indexed {
            None => (None, None),
            Some(Indexed { written, searchable }) => (Some(searchable), Some(written.filter(current))),
        };
        let mut stages = vec![Stage {
            correlation_id: Some(order.correlation_id),
            ..Stage::done(Name::Created, Some(order.created_at))
        }];
        if order.status == Status::Cancelled {
            stages.push(Stage {
                correlation_id: event.as_ref().map(|event| event.correlation_id.clone()),
                ..Stage::done(Name::Cancelled, Some(changed_at))
            });
        }
        stages.push(published(event, written.clone().flatten()));
        stages.push(match written {
            None => Stage::unknown_to_index(Name::Indexed),
            Some(None) => Stage::open(Name::Indexed, State::Pending, "the index does not have it yet"),
            Some(Some(document)) => Stage::done(Name::Indexed, document.indexed_at),
        });
        stages.push(match searchable {
            None => Stage::unknown_to_index(Name::Searchable),
            Some(found) if found >= Some(version) => Stage::done(Name::Searchable, None),
            Some(None) => Stage::open(
                Name::Searchable,
                State::Pending,
                "searches do not find the order yet",
            ),
            Some(Some(found)) => Stage::open(
                Name::Searchable,
                State::Pending,
                format!("searches still find version {found}"),
            ),
        });
        Self {
            order_id: order.order_id,
            status: order.status,
            version,
            stages,
        }
    }
}

/// The index knows best: what it has from Kafka was published, whether the relay has noted it already or not. A document that
/// was made from PostgreSQL says nothing about that.
fn published(event: Option<Event>, document: Option<Document>) -> Stage {
    if let Some(document) = document.filter(|document| document.topic.is_some()) {
        return Stage {
            topic: document.topic,
            partition: document.partition,
            offset: document.offset,
            ..Stage::done(Name::Published, document.published_at)
        };
    }
    let Some(event) = event else {
        let detail = "the outbox does not have the event any more";
        return Stage::open(Name::Published, State::Unknown, detail);
    };
    let detail = match event.publishing {
        State::Done => return Stage::done(Name::Published, event.sent_at),
        State::Failed if event.discarded => "the event was discarded: it will not be published",
        State::Failed => "Kafka refused the event; it is tried again by itself",
        _ => "the relay has not published the event yet",
    };
    Stage::open(Name::Published, event.publishing, detail)
}

impl Stage {
    fn done(name: Name, at: Option<DateTime<Utc>>) -> Self {
        Self {
            name,
            state: State::Done,
            at,
            correlation_id: None,
            topic: None,
            partition: None,
            offset: None,
            detail: None,
        }
    }

    fn open(name: Name, state: State, detail: impl Into<String>) -> Self {
        Self {
            state,
            detail: Some(detail.into()),
            ..Self::done(name, None)
        }
    }

    fn unknown_to_index(name: Name) -> Self {
        Self::open(name, State::Unknown, "the index can't be asked now")
    }
}
