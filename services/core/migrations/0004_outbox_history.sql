-- Outbox: whose history it is, events given up, days that had no partition ----------------------------------------

-- The checkpoint and `outbox_log.xid` are of one PostgreSQL cluster's transactions and mean nothing in another one. The last row says
-- which cluster that is; there is one more for each time that somebody had the relay adopt a foreign log. `xid` is the transaction that
-- wrote the row, so where the row's own `xmin` says otherwise, the tables were copied row by row (a dump, logical replication). By it
-- the relay also finds rows of the log that were given it when they were adopted.
create table outbox_history (
    history_id        integer     primary key,
    system_identifier bigint      not null,
    xid               xid8        not null default pg_current_xact_id(),
    began_at          timestamptz not null default now()
);

-- Events that Kafka has and the log has not, as far as a relay saw them at the ends of the topics: PostgreSQL went back to an earlier
-- state. Nothing is published as long as one of them is not accepted.
create table outbox_lost (
    event_id        uuid        primary key,
    outbox_id       bigint      not null,
    aggregate_id    text        not null,
    created_at      timestamptz not null,
    topic           text        not null,
    kafka_partition integer     not null,
    kafka_offset    bigint      not null,
    found_at        timestamptz not null default now(),
    accepted_at     timestamptz
);

-- Somebody decided that this event is not to be published; later events of its aggregate no longer wait for it.
alter table outbox_parked
    add column discarded_at   timestamptz(0),
    add column discard_reason text;

create index outbox_parked_waiting on outbox_parked (aggregate_type, aggregate_id, outbox_id)
    where sent_at is null and discarded_at is null;

drop index outbox_parked_by_aggregate;

create or replace view outbox_events as
select log.outbox_id,
       log.event_id,
       log.aggregate_type,
       log.aggregate_id,
       log.aggregate_version,
       log.event_type,
       log.payload,
       log.headers,
       log.correlation_id,
       log.created_at,
       case
           when parked.sent_at is not null then 'SENT'
           when parked.last_error is not null or parked.discarded_at is not null then 'FAILED'
           when parked.outbox_id is not null then 'NEW'
           when pg_visible_in_snapshot(log.xid, checkpoint.snapshot) then 'SENT'
           when checkpoint.window_snapshot is not null
               and pg_visible_in_snapshot(log.xid, checkpoint.window_snapshot)
               and log.outbox_id <= checkpoint.position then 'SENT'
           else 'NEW'
       end as status,
       case when parked.outbox_id is not null then parked.sent_at else (
           select progress.sent_at
             from relay_progress progress
            where pg_snapshot_xmax(progress.window_snapshot) > log.xid
              and (pg_visible_in_snapshot(log.xid, progress.snapshot)
                   or (pg_visible_in_snapshot(log.xid, progress.window_snapshot)
                       and log.outbox_id <= progress.position))
            order by pg_snapshot_xmax(progress.window_snapshot), progress.sent_at
            limit 1
       ) end as sent_at,
       parked.last_error,
       log.xid,
       parked.discarded_at
  from outbox_log log
 cross join relay_checkpoint checkpoint
  left join outbox_parked parked on parked.outbox_id = log.outbox_id;

-- Makes the partition of one day (UTC); false where it exists, or can't be made yet. Attaching, unlike `create table … partition of`,
-- leaves readers and writers of the log's other partitions alone. Rows of that day which landed in the default partition move into
-- it, with their `xid`. That has to wait until the day is over, since it would have to keep new rows out, and until the relay has
-- published them: a statement that is planned at this very moment may know the partitions from before and read the rows from after,
-- and find a row in neither place.
create or replace function outbox_log_add_partition(day date) returns boolean language plpgsql as $$
declare
    partition text := 'outbox_log_' || to_char(day, 'YYYYMMDD');
    first timestamptz := day::timestamp at time zone 'UTC';
    next  timestamptz := (day + 1)::timestamp at time zone 'UTC';
    published pg_snapshot := (select snapshot from relay_checkpoint);
    unpublished boolean;
begin
    if to_regclass(partition) is not null then
        return false;
    end if;
    if next > now() and exists (select from outbox_log_default where created_at >= first and created_at < next) then
        return false;
    end if;
    if exists (select from outbox_log_default
                where (xid >= pg_snapshot_xmax(published) or xid = any (array(select pg_snapshot_xip(published))))
                  and created_at >= first and created_at < next) then
        return false;
    end if;
    execute format('create table %I (like outbox_log including defaults)', partition);
    execute format('with moved as (delete from outbox_log_default where created_at >= $1 and created_at < $2 returning *)
                    insert into %I select * from moved', partition) using first, next;
    execute format('alter table outbox_log attach partition %I for values from (%L) to (%L)', partition, first, next);
    execute format('select exists (select from %I where xid >= pg_snapshot_xmax($1) or xid = any (array(select pg_snapshot_xip($1))))',
        partition) into unpublished using published;
    if unpublished then
        raise exception 'an event of % was written while its partition was made', day using errcode = 'object_in_use';
    end if;
    return true;
end
$$;
