-- The captured tables after which a partitioned table's events can be named: itself, those below
-- it, and those that were detached and can come back. None for other tables.
create or replace function pgoutbox.captured_among(root regclass) returns text[]
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(array_agg(c.relation::text order by c.number), '{}')
    from pgoutbox.captured_table c
    join pg_class r on r.oid = c.relation
    where (select p.relkind = 'p' from pg_class p where p.oid = root) and (
        c.relation in (select p.relid from pg_partition_tree(root) p)
        or not r.relispartition and exists (
            select from pg_trigger t
            where t.tgrelid = r.oid and t.tgname = '00_pgoutbox_alone_' || c.number
        )
    )
$$;
