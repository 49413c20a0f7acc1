//! Transaction ids: whether those of checkpoint and log are this cluster's.

use sqlx::{PgConnection, Row as _, postgres::PgRow};

use super::Finding;

/// What decides whether the transaction ids are this cluster's.
#[derive(Debug, Clone, Default)]
struct Ids {
    system_identifier: i64,
    /// The id after the last one that has ended.
    next: u64,
    /// The cluster that the last row of `outbox_history` names, and whether that row was copied.
    history: Option<(i64, bool)>,
    /// The highest `xmax` of the checkpoint's snapshots.
    checkpoint: u64,
    /// The highest id in the log.
    newest: Option<u64>,
    subscriptions: Option<String>,
}

impl Ids {
    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        let number = |index: usize| {
            let text = row.try_get::<Option<&str>, _>(index)?;
            text.map(str::parse)
                .transpose()
                .map_err(|error| sqlx::Error::Decode(Box::new(error)))
        };
        let history: Option<i64> = row.try_get(2)?;
        Ok(Self {
            system_identifier: row.try_get(0)?,
            next: number(1)?.unwrap_or_default(),
            history: history.zip(row.try_get(3)?),
            checkpoint: number(4)?.unwrap_or_default(),
            newest: number(5)?,
            subscriptions: row.try_get(6)?,
        })
    }

    /// The most telling of what is to be said of the ids; the rest follows from it.
    fn finding(&self) -> Option<Finding> {
        let here = self.system_identifier;
        match (&self.subscriptions, self.history, self.newest) {
            (Some(subscriptions), ..) => Some(Finding::Subscribed {
                subscriptions: subscriptions.clone(),
            }),
            (_, Some((from, true)), _) if from != here => Some(Finding::Copied { from, here }),
            _ if self.checkpoint > self.next => Some(Finding::Ahead {
                checkpoint: self.checkpoint,
            }),
            (.., Some(xid)) if xid >= self.next => Some(Finding::Future { xid }),
            _ => None,
        }
    }
}

/// Takes no transaction id.
pub async fn foreign(connection: &mut PgConnection) -> Result<Option<Finding>, sqlx::Error> {
    // The newest row, by the index; what is visible to this statement, and its snapshot, are of one moment.
    const IDS: &str = "
        with latest as (
            select system_identifier, xmin <> xid::xid as copied from outbox_history order by history_id desc limit 1
        ), log as (
            select 'outbox_log'::regclass::oid as id
            union all
            select inhrelid from pg_inherits where inhparent = 'outbox_log'::regclass
        )
        select (select system_identifier from pg_control_system()),
               pg_snapshot_xmax(pg_current_snapshot())::text,
               (select system_identifier from latest),
               (select copied from latest),
               greatest(pg_snapshot_xmax(snapshot), pg_snapshot_xmax(window_snapshot))::text,
               (select xid from outbox_log order by xid desc limit 1)::text,
               (select string_agg(distinct subname::text, ', ')
                  from pg_subscription join pg_subscription_rel on srsubid = pg_subscription.oid join log on log.id = srrelid
                 where subenabled)
          from relay_checkpoint";
    let row = sqlx::query(IDS).fetch_one(connection).await?;
    Ok(Ids::of(&row)?.finding())
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    /// A sound database, in the second epoch of transaction ids.
    fn sound() -> Ids {
        const EPOCH: u64 = 1 << 32;
        Ids {
            system_identifier: 7,
            next: EPOCH + 100,
            history: Some((7, false)),
            checkpoint: EPOCH + 100,
            newest: Some(EPOCH + 99),
            subscriptions: None,
        }
    }

    #[test]
    fn ids_that_are_this_clusters_are_no_finding() {
        let new = Ids {
            system_identifier: 7,
            next: 750,
            checkpoint: 1,
            ..Ids::default()
        };
        let dumped_and_restored_into_the_same_cluster = Ids {
            history: Some((7, true)),
            ..sound()
        };
        let upgraded = Ids {
            history: Some((6, false)),
            ..sound()
        };
        for ids in [new, sound(), dumped_and_restored_into_the_same_cluster, upgraded] {
            assert_eq!(ids.finding(), None, "{ids:?}");
        }
    }

    #[test]
    fn ids_of_another_cluster_are_found_also_where_only_the_epoch_tells() {
        let copied = Ids {
            history: Some((6, true)),
            next: 750,
            ..sound()
        };
        assert_eq!(copied.finding(), Some(Finding::Copied { from: 6, here: 7 }));
        let checkpoint = sound().next + 1;
        let ahead = Ids {
            checkpoint,
            ..sound()
        };
        assert_eq!(ahead.finding(), Some(Finding::Ahead { checkpoint }));
        let xid = sound().next + (1 << 32) - 50;
        let future = Ids {
            newest: Some(xid),
            ..sound()
        };
        assert_eq!(future.finding(), Some(Finding::Future { xid }));
    }
}
