//! Events that Kafka has and the log has not.

use std::time::Duration;

use sqlx::{Connection as _, Executor as _, PgConnection};

use super::{Finding, tail::Message};

/// Order ids go on so far above the highest one that is known to be lost: more orders may have been placed than were published.
const ORDER_ID_MARGIN: i64 = 1_000_000;

/// Looks the messages up in the log. Those that are missing are written down, and ids of orders given out above theirs from
/// now on, whatever will be decided: consumers have those orders.
pub async fn lost(
    connection: &mut PgConnection,
    messages: &[Message],
    retention: Duration,
) -> Result<Option<Finding>, sqlx::Error> {
    let mut missing = missing_of(connection, &messages.iter().collect::<Vec<_>>(), retention).await?;
    // A row that is just being moved to a partition of its own may be found in neither place.
    if !missing.is_empty() {
        missing = missing_of(connection, &missing, retention).await?;
    }
    let Some(last) = missing.iter().max_by_key(|message| message.created_at) else {
        return Ok(None);
    };
    let mut transaction = connection.begin().await?;
    record(&mut transaction, &missing).await?;
    skip_order_ids(&mut transaction).await?;
    transaction.commit().await?;
    Ok(Some(Finding::Lost {
        events: missing.len(),
        last: Message::clone(last),
    }))
}

async fn missing_of<'m>(
    connection: &mut PgConnection,
    messages: &[&'m Message],
    retention: Duration,
) -> Result<Vec<&'m Message>, sqlx::Error> {
    // A row that was adopted has another xid than the message names. One whose day was dropped, or may have been by now, is
    // missing for good reason. Days to come, as seen from a database that was set back, were not dropped.
    const MISSING: &str = "
        with adopted as materialized (
            select array_agg(xid) || '3'::xid8 as xids from outbox_history
        ), days as materialized (
            select array_agg(relname::text) as kept, max(relname::text) as last
              from pg_inherits join pg_class on pg_class.oid = inhrelid
             where inhparent = 'outbox_log'::regclass and not inhdetachpending and relname ~ '^outbox_log_[0-9]{8}$'
        )
        select message.n
          from unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::uuid[]) with ordinality
               as message (xid, outbox_id, created_at, event_id, n)
         cross join adopted
         cross join days
         cross join lateral (
             select 'outbox_log_' || to_char(message.created_at at time zone 'UTC', 'YYYYMMDD') as name,
                    ((message.created_at at time zone 'UTC')::date + 1)::timestamp at time zone 'UTC' as ended
         ) day
          left join lateral (
             select true as found
               from outbox_log log
              where log.xid = any (message.xid::xid8 || adopted.xids) and log.outbox_id = message.outbox_id
                and log.created_at = message.created_at and log.event_id = message.event_id
              limit 1
         ) known on true
         where known.found is null
           and (day.name = any (days.kept) or day.name > days.last)
           and day.ended > now() - make_interval(secs => $5)
           and not exists (select from outbox_lost lost
                            where lost.event_id = message.event_id and lost.accepted_at is not null)";
    // By the index, however old the statistics are.
    let mut transaction = connection.begin().await?;
    transaction.execute("set local enable_seqscan = off").await?;
    let missing = sqlx::query_scalar::<_, i64>(MISSING)
        .bind(column(messages, |message| message.xid.to_string()))
        .bind(column(messages, |message| message.outbox_id))
        .bind(column(messages, |message| message.created_at))
        .bind(column(messages, |message| message.event_id))
        .bind(retention.as_secs_f64())
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    let message = |n: i64| messages.get(usize::try_from(n - 1).ok()?).copied();
    Ok(missing.into_iter().filter_map(message).collect())
}

async fn record(connection: &mut PgConnection, lost: &[&Message]) -> Result<(), sqlx::Error> {
    const RECORD: &str = "
        insert into outbox_lost
               (event_id, outbox_id, aggregate_id, created_at, topic, kafka_partition, kafka_offset)
        select * from unnest($1::uuid[], $2::bigint[], $3::text[], $4::timestamptz[], $5::text[], $6::integer[], $7::bigint[])
        on conflict (event_id) do nothing";
    sqlx::query(RECORD)
        .bind(column(lost, |message| message.event_id))
        .bind(column(lost, |message| message.outbox_id))
        .bind(column(lost, |message| message.aggregate_id.clone()))
        .bind(column(lost, |message| message.created_at))
        .bind(column(lost, |message| message.topic.clone()))
        .bind(column(lost, |message| message.partition))
        .bind(column(lost, |message| message.offset))
        .execute(connection)
        .await
        .map(drop)
}

fn column<T>(messages: &[&Message], value: impl Fn(&Message) -> T) -> Vec<T> {
    messages.iter().map(|message| value(message)).collect()
}

/// New orders get ids that no lost one has.
pub async fn skip_order_ids(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    const SKIP: &str = "
        select setval('orders_order_id_seq', lost.order_id + $1)
          from (select max(aggregate_id::bigint) as order_id from outbox_lost where aggregate_id ~ '^[0-9]{1,18}$') lost,
               orders_order_id_seq ids
         where ids.last_value < lost.order_id";
    sqlx::query(SKIP)
        .bind(ORDER_ID_MARGIN)
        .execute(connection)
        .await
        .map(drop)
}
