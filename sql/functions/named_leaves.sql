-- The partitions of `root` that are captured under their own names: [[schema, table], …].
create or replace function pgoutbox.named_leaves(root regclass) returns jsonb
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select pg_catalog.jsonb_agg(
        pg_catalog.jsonb_build_array(n.nspname, r.relname) order by n.nspname, r.relname
    )
    from pg_catalog.pg_partition_tree(root) p
    join pgoutbox.captured_table c on c.relation = p.relid
    join pg_catalog.pg_class r on r.oid = p.relid
    join pg_catalog.pg_namespace n on n.oid = r.relnamespace
    where p.relid <> root
$$;
