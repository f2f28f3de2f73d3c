-- The table under whose name the events of `relation` go, and that name, as both are now.
--
-- captured_as() answers by captured_table, which can be older than the trigger where the
-- transaction's snapshot is. So the trigger's function tells which tables were captured when it
-- was made: it is made anew, in the same transaction, whenever one is captured or released.
create or replace function pgoutbox.named_as(
    relation regclass, captured text[], out schema_name text, out table_name text
)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select n.object_names[1], n.object_names[2]
    from (
        select candidate.relation
        from unnest(
            array[relation] || array(select pg_partition_ancestors(relation))
        ) with ordinality candidate (relation, distance)
        order by
            candidate.relation = any (select to_regclass(c) from unnest(captured) c) is not true
            and not exists (
                select from pgoutbox.captured_table c
                where c.relation = candidate.relation and not pgoutbox.is_outdated(c.xmax)
            ),
            candidate.distance
        limit 1
    ) nearest
    cross join pg_identify_object_as_address('pg_class'::regclass, nearest.relation, 0) n
$$;
