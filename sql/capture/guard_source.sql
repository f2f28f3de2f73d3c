-- The condition on which a capture function may render rows by itself: it fits the table, and the
-- settings that show in the table's values are as they should be.
--
-- The first part is worked out when the condition is planned (fits.sql). It names the table by its
-- OID: a copy of the table, such as a restored one, has another. The variable `nothing` is always
-- null, which the planner doesn't know: so it keeps the constant beside it.
create or replace function pgoutbox.guard_source(relation regclass) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select concat_ws(
        E'\n            and ',
        format(
            'pgoutbox.fits(%1$L::pg_catalog.oid, %2$L) '
            'and (case when nothing is not null then %1$L::pg_catalog.regclass end) is null',
            relation::oid, s.shape),
        -- The parser can't tell generated columns from others, which they become by
        -- ALTER COLUMN ... DROP EXPRESSION.
        case when s.generated > 0 then format(
            '(select pg_catalog.count(*) from pg_catalog.pg_attribute a '
            'where a.attrelid operator(pg_catalog.=) %L::pg_catalog.oid '
            'and a.attgenerated operator(pg_catalog.<>) '''' '
            'and not pgoutbox.is_outdated(a.xmax)) operator(pg_catalog.=) %s',
            relation::oid, s.generated) end,
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
    from (
        select
            pgoutbox.shape_text(
                relation,
                coalesce(array_agg(a.attname::text order by a.attnum), '{}'),
                coalesce(array_agg(a.atttypid order by a.attnum), '{}')
            ) as shape,
            count(*) filter (where a.attgenerated <> '') as generated
        from pg_attribute a
        where a.attrelid = relation and a.attnum > 0 and not a.attisdropped
    ) s
$$;
