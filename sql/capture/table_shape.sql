-- All that a table's capture function is generated from, as text.
--
-- Compared with captured_table.shape to find drift: columns (name, type, generated or not),
-- replica identity where old values follow it; whether it is a partition; its owner; its name;
-- where it is partitioned its partitions as far as these don't all go under that; whether its rows
-- can have deferred checks.
create or replace function pgoutbox.table_shape(relation regclass, old_values text) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select pg_catalog.jsonb_build_object(
        -- The capture function names the table by it; a restored table has another.
        'oid', c.oid::bigint,
        'columns', (
            select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(
                a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attgenerated <> ''
            ) order by a.attnum)
            from pg_catalog.pg_attribute a
            where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
        ),
        'attributes', c.relnatts,
        'kept', (
            select pgoutbox.kept_columns(t.relation) from pgoutbox.captured_table t
            where t.relation = table_shape.relation and t.choice <> '{}'
        ),
        'identity', case when old_values = 'identity' then
            pg_catalog.jsonb_build_array(c.relreplident, pgoutbox.identity_columns(relation)) end,
        'is_partition', c.relispartition,
        'may_defer', pgoutbox.may_defer(relation),
        -- Has a right on the capture function.
        'owner', c.relowner::bigint,
        'name', pg_catalog.jsonb_build_array(n.nspname, c.relname),
        -- Asked of few, for it looks at all captured tables.
        'leaves', case when c.relkind = 'p' then (
            select pg_catalog.jsonb_object_agg(coalesce(l.captured::text, ''), l.leaves::text)
            from pgoutbox.captured_leaves(relation) l
        ) end
    )::text
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.oid = relation
$$;
