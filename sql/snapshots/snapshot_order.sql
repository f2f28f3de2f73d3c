-- The order in which a snapshot reads a table: that of its key, else of where its rows stand.
--
-- A place means something in one `file` only, which is null where there is a key. `described` is
-- what a last key belongs to.
create or replace function pgoutbox.snapshot_order(relation regclass) returns table (
    columns text[], types text[], equal text[], greater text[], described text, file oid
)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select k.columns, k.types, k.equal, k.greater, k.described, null::oid
    from pgoutbox.key_order(relation) k
    union all
    select
        array['pgoutbox place'], array['pg_catalog.tid'],
        array['operator(pg_catalog.=)'], array['operator(pg_catalog.>)'],
        concat('file ', f.file), f.file
    from (select coalesce(pg_relation_filenode(relation), 0)) f (file)
    order by 6 nulls first
    limit 1
$$;
