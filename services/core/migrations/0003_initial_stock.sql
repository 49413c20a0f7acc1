-- The initial stock of the SKUs that were there before the ledger: what they have, and what their orders took and did not
-- give back. One statement, so one snapshot, in which no order is half there; it locks nobody out, however long it takes.
-- SKUs that were added since the ledger is there have their row from the trigger.
insert into stock_adjustments (sku_id, delta, reason, created_at)
select sku_id, skus.stock + coalesce(taken.pieces, 0), 'INITIAL', skus.created_at
  from skus
  left join (select sku_id, sum(quantity) as pieces from orders where status <> 'CANCELLED' group by sku_id) taken
 using (sku_id)
 where not exists (select from stock_adjustments known where known.sku_id = skus.sku_id);
