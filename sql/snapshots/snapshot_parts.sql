-- The tables with rows of their own that a table consists of: its partitions, or itself.
--
-- Not by pg_partition_tree(), which locks every partition.
create or replace function pgoutbox.snapshot_parts(root regclass)
    returns table (relation regclass, reltuples real)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with recursive tree (relation) as (
        select root::oid
        union all
        select i.inhrelid
        from tree t
        join pg_class c on c.oid = t.relation and c.relkind = 'p'
        join pg_inherits i on i.inhparent = t.relation
    )
    select c.oid, c.reltuples
    from tree t join pg_class c on c.oid = t.relation
    where c.relkind = 'r'
$$;
