-- The captured table under whose name the events of `relation` go: itself where it was
-- asked for, else the partitioned table above it that was. NULL where neither is captured.
create or replace function pgoutbox.captured_as(relation regclass) returns regclass
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select c.relation
    from pg_catalog.unnest(
        array[relation] || array(select pg_catalog.pg_partition_ancestors(relation))
    ) with ordinality as candidate (relation, distance)
    join pgoutbox.captured_table c on c.relation = candidate.relation
    order by candidate.distance
    limit 1
$$;
