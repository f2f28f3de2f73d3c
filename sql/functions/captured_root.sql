-- The captured partitioned table above a partition; null where there is none.
create or replace function pgoutbox.captured_root(relation regclass) returns regclass
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select c.relation
    from pg_catalog.pg_partition_ancestors(relation) a (relid)
    join pgoutbox.captured_table c on c.relation = a.relid
    where a.relid <> captured_root.relation
    limit 1
$$;
