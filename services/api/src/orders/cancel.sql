-- Cancels an order whose own row and whose SKU's row are locked: gives its pieces back and logs its event.
with cancelled as (
    update orders
       set status = $2, version = version + 1, updated_at = now()
     where order_id = $1
    returning order_id, sku_id, quantity, version
), returned as (
    update skus
       set stock = skus.stock + cancelled.quantity, version = skus.version + 1, updated_at = now()
      from cancelled
     where skus.sku_id = cancelled.sku_id
)
insert into outbox_log (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload, headers,
                        correlation_id)
select $3, $4, order_id::text, version, $5, $6, jsonb_strip_nulls(jsonb_build_object('traceparent', $7::text)), $8
  from cancelled
