-- Stock ledger ---------------------------------------------------------------------------------------------------

-- Orders are the movements: what they took and gave back stands in their rows, so that placing one writes nothing more.
-- Only what no order tells is written here: the stock that a SKU begins with, and what it was set to later.
create table stock_adjustments (
    adjustment_id bigint generated always as identity primary key,
    sku_id        bigint      not null references skus,
    delta         bigint      not null,
    reason        text        not null check (reason in ('INITIAL', 'ADJUSTMENT')),
    created_at    timestamptz not null default now()
);

create index stock_adjustments_by_sku on stock_adjustments (sku_id);

-- One row for each time that the stock of a SKU changed. At any moment, that is in any one snapshot, the sum of a SKU's
-- deltas is its stock. An order that is cancelled stays so and does not change again: updated_at is when it was.
create view stock_movements as
select sku_id, delta, reason, null::bigint as order_id, created_at
  from stock_adjustments
 union all
select sku_id, -quantity::bigint, 'ORDER', order_id, created_at
  from orders
 union all
select sku_id, quantity::bigint, 'CANCEL', order_id, updated_at
  from orders
 where status = 'CANCELLED';

-- Whoever adds SKUs, their initial stock is in the ledger: also the previous version, which knows of no ledger.
create function skus_log_initial_stock() returns trigger language plpgsql as $$
begin
    insert into stock_adjustments (sku_id, delta, reason, created_at)
    select sku_id, stock, 'INITIAL', created_at from added;
    return null;
end
$$;

create trigger skus_initial_stock after insert on skus
    referencing new table as added
    for each statement execute function skus_log_initial_stock();

-- Outbox ---------------------------------------------------------------------------------------------------------

-- As before, with the writing transaction as last column: by it, and no other way, an index finds a row of the log.
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
           when parked.last_error is not null then 'FAILED'
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
       log.xid
  from outbox_log log
 cross join relay_checkpoint checkpoint
  left join outbox_parked parked on parked.outbox_id = log.outbox_id;
