-- The condition on which a capture function may render rows by itself: it fits the table, no value
-- is large (`is_small`, an expression), and the settings that show in the table's values are as
-- they should be.
create or replace function pgoutbox.guard_source(relation regclass, is_small text) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select concat_ws(
        E'\n            and ',
        pgoutbox.fits_source(relation, is_small),
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
$$;
