-- Writes new orders, takes their stock and logs their events. Returns the ids of the orders written, in the order of
-- the parameters; fewer where another transaction has taken a key meanwhile.
with input as materialized (
    select nextval('orders_order_id_seq') as order_id, line.*
      from unnest($1::text[], $2::text[], $3::bytea[], $4::bigint[], $5::integer[], $6::text[], $7::uuid[], $8::text[])
           as line (user_id, idempotency_key, request_hash, sku_id, quantity, correlation_id, event_id, traceparent)
), placed as (
    insert into orders (order_id, user_id, sku_id, quantity, status, idempotency_key, request_hash, correlation_id)
    overriding system value
    select order_id, user_id, sku_id, quantity, 'CREATED', idempotency_key, request_hash, correlation_id
      from input
     order by user_id, idempotency_key, order_id
        on conflict on constraint orders_idempotency do nothing
    returning order_id
), taken as (
    update skus
       set stock = skus.stock - total.quantity, version = skus.version + 1, updated_at = now()
      from (select sku_id, sum(quantity) as quantity from input group by sku_id) as total
     where skus.sku_id = total.sku_id
), logged as (
    -- The payload is commerce_core::event::OrderEvent. Where an order was not placed, all of this is rolled back.
    insert into outbox_log (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload, headers,
                            correlation_id)
    select event_id, 'order', order_id::text, 1, 'order.created',
           jsonb_build_object(
               'orderId', order_id::text,
               'skuId', sku_id,
               'quantity', quantity,
               'userId', user_id,
               'status', 'CREATED',
               'version', 1,
               'correlationId', correlation_id,
               'eventType', 'ORDER_CREATED',
               'createdAt', to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
           ),
           jsonb_strip_nulls(jsonb_build_object('traceparent', traceparent)),
           correlation_id
      from input
     order by order_id
)
select order_id from placed order by order_id
