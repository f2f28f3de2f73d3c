-- The condition on which a capture function may render rows by itself: it fits the table, `size`
-- (an expression) is less than what is large there, and the settings that show in the table's
-- values are as they should be.
--
-- Whether it fits is worked out when the condition is planned (parsed_shape.sql): what is large, a
-- constant, is -1 where it doesn't. It finds the table by its name, which is what events bear, and
-- the shape has its OID: a copy of the table, such as a restored one, has another. The OID is named
-- in a test that is always true, which the planner doesn't know, since it doesn't know that
-- `nothing` is always null: so the plan keeps it, and every ALTER TABLE ends the plan.
create or replace function pgoutbox.guard_source(relation regclass, size text) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select concat_ws(
        E'\n            and ',
        format(
            E'%s operator(pg_catalog.<)\n                '
            '(case when (case when nothing is not null then %L::pg_catalog.regclass end) is null '
            'then\n                case when pgoutbox.parsed_shape(%L::pg_catalog.regclass) '
            'operator(pg_catalog.=) %L then %s else -1 end end)',
            size, relation::oid, format('%I.%I', n.nspname, c.relname),
            pgoutbox.parsed_shape(relation), pgoutbox.largest_quick(relation)),
        -- The parser can't tell generated columns from others, which they become by
        -- ALTER COLUMN ... DROP EXPRESSION.
        (
            select format(
                '(select pg_catalog.count(*) from pg_catalog.pg_attribute a '
                'where a.attrelid operator(pg_catalog.=) %L::pg_catalog.oid '
                'and a.attgenerated operator(pg_catalog.<>) '''' '
                'and not pgoutbox.is_outdated(a.xmax)) operator(pg_catalog.=) %s',
                relation::oid, count(*))
            from pg_attribute a
            where a.attrelid = relation and not a.attisdropped and a.attgenerated <> ''
            having count(*) > 0
        ),
        (
            select string_agg(
                pgoutbox.setting_source(needed.setting), E'\n            and '
                order by needed.setting)
            from (
                select distinct unnest(c.settings) as setting
                from pgoutbox.captured_columns(relation, 'new') c
            ) needed
        )
    )
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = relation
$$;
