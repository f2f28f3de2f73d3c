-- What the outbox takes on disk: all slots with their indexes, in bytes.
create or replace function pgoutbox.outbox_bytes() returns bigint
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select pg_catalog.sum(pg_catalog.pg_total_relation_size(i.inhrelid))::bigint
    from pg_catalog.pg_inherits i
    where i.inhparent in ('pgoutbox.event'::regclass, 'pgoutbox.transaction'::regclass)
$$;
