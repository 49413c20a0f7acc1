-- One order, one transaction; statement by statement, as an application with a connection pool sends them.
\set sku random(1, :skus)
\set user random(1, 10000)
begin;
update skus set stock = stock - 1, version = version + 1, updated_at = now() where sku_id = :sku and stock >= 1;
insert into orders (user_id, sku_id, quantity, status, idempotency_key, request_hash, correlation_id)
values ('user-' || :user, :sku, 1, 'CREATED', gen_random_uuid()::text, sha256(('' || :sku)::bytea), gen_random_uuid()::text)
returning order_id, created_at, correlation_id \gset
insert into outbox_log (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload, headers, correlation_id)
values (gen_random_uuid(), 'order', :order_id::text, 1, 'order.created',
        jsonb_build_object('orderId', :order_id::text, 'skuId', :sku::bigint, 'quantity', 1, 'userId', 'user-' || :user::text,
                           'status', 'CREATED', 'version', 1, 'correlationId', :correlation_id::text,
                           'eventType', 'ORDER_CREATED', 'createdAt', :created_at::text),
        '{}', :correlation_id::text);
commit;
