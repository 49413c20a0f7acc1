-- Owner ---------------------------------------------------------------------------------------------------------------

-- The pipeline whose tables these are, as its operator says: operators of several clusters don't see each other's pipelines, and
-- the tables are what they have in common. `generation` is that of the newest spec that was carried out, so that an operator
-- which was replaced and does not know it yet is refused. There is no row while nobody has claimed the tables.
create table pipeline_owner (
    singleton  boolean primary key default true check (singleton),
    uid        text    not null,
    namespace  text    not null,
    name       text    not null,
    cluster    text    not null,
    generation bigint  not null,
    marked_at  timestamptz not null default now()
);
