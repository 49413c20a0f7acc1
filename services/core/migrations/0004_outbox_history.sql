-- Outbox: whose history it is, events given up, days that had no partition ----------------------------------------

-- The checkpoint and `outbox_log.xid` are of this PostgreSQL cluster's transactions and mean nothing in another one. Null until a
-- relay has first claimed the lease.
alter table relay_checkpoint add column system_identifier bigint;

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

-- Makes the partition of one day (UTC); false where it exists. Attaching, unlike `create table … partition of`, leaves readers and
-- writers of the log's other partitions alone. Rows of that day which landed in the default partition move into it, with their
-- `xid`, so that nothing changes for the relay; but not before the day is over, since moving would have to keep new ones out.
create or replace function outbox_log_add_partition(day date) returns boolean language plpgsql as $$
declare
    partition text := 'outbox_log_' || to_char(day, 'YYYYMMDD');
    first timestamptz := day::timestamp at time zone 'UTC';
    next  timestamptz := (day + 1)::timestamp at time zone 'UTC';
begin
    if to_regclass(partition) is not null then
        return false;
    end if;
    if next > now() and exists (select from outbox_log_default where created_at >= first and created_at < next) then
        return false;
    end if;
    execute format('create table %I (like outbox_log including defaults)', partition);
    execute format('with moved as (delete from outbox_log_default where created_at >= $1 and created_at < $2 returning *)
                    insert into %I select * from moved', partition) using first, next;
    execute format('alter table outbox_log attach partition %I for values from (%L) to (%L)', partition, first, next);
    return true;
end
$$;
