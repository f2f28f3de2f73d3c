-- The partitions of a captured root that hold rows, by the table under whose name their
-- events go: null for the partition's own, else a captured table above it. No rows where all
-- go under the root's name, also those attached later: not so while there is a captured table
-- that was detached, and can come back under its own name.
create or replace function pgoutbox.captured_leaves(root regclass)
    returns table (captured regclass, leaves regclass[])
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select nullif(n.captured, n.leaf), array_agg(n.leaf order by n.leaf::text collate "C")
    from (
        select p.relid::regclass as leaf, pgoutbox.captured_as(p.relid) as captured
        from pg_partition_tree(root) p
        -- The root holds none, but makes a row where it has no partitions.
        where p.isleaf or p.relid = root
    ) n
    where exists (
        select from pg_partition_tree(root) p
        join pgoutbox.captured_table c on c.relation = p.relid
        where p.relid <> root
    ) or exists (
        select from pgoutbox.captured_table c
        join pg_class r on r.oid = c.relation and not r.relispartition
        join pg_trigger t on t.tgrelid = r.oid and t.tgname = '00_pgoutbox_alone_' || c.number
    )
    group by 1
$$;
