-- The captured partitioned table above a partition, the outermost where there are several:
-- the one whose row trigger is cloned to it. Null where there is none.
create or replace function pgoutbox.captured_root(relation regclass) returns regclass
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select c.relation
    from pg_catalog.pg_partition_ancestors(relation) with ordinality a (relid, distance)
    join pgoutbox.captured_table c on c.relation = a.relid
    where a.relid <> captured_root.relation
    order by a.distance desc
    limit 1
$$;
