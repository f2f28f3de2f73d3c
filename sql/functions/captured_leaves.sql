-- The partitions of a captured root that hold rows, by the table under whose name their
-- events go: null for the partition's own, else a captured table above it. No rows where all
-- go under the root's name, also those attached later.
create or replace function pgoutbox.captured_leaves(root regclass)
    returns table (captured regclass, leaves regclass[])
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select nullif(n.captured, n.leaf), pg_catalog.array_agg(n.leaf order by n.leaf::text collate "C")
    from (
        select p.relid::regclass as leaf, pgoutbox.captured_as(p.relid) as captured
        from pg_catalog.pg_partition_tree(root) p
        where p.isleaf and p.relid <> root
    ) n
    where exists (
        select from pg_catalog.pg_partition_tree(root) p
        join pgoutbox.captured_table c on c.relation = p.relid
        where p.relid <> root
    )
    group by 1
$$;
