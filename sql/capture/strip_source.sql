-- The part of a capture function that takes out of both rows what can't be published, before they
-- are handed to capture_slowly(), and notes it (too_large.sql): to hand a row over is to copy it,
-- several times. System columns stay. Null for a table of which no row has a large value.
--
-- It fails where the table isn't what it was, and has then done no harm. A condition that is yet to
-- be evaluated needs the whole row. PL/pgSQL has keywords that quote_ident() leaves as they are.
create or replace function pgoutbox.strip_source(relation regclass, has_condition boolean)
    returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with stripped as (
        select
            format(
                E'\n                %1$s_large := pgoutbox.too_large(%2$L, array[%3$s]);',
                r.variable,
                array_agg(c.name order by c.name),
                string_agg(format(c.size, r.variable), ', ' order by c.name))
            || string_agg(
                format(
                    E'\n                if %1$s_large operator(pg_catalog.?) %2$L then '
                    '%1$s."%3$s" := null; end if;',
                    r.variable, c.name, replace(c.name, '"', '""')),
                '' order by c.name) as source
        from (values ('new'), ('old')) r (variable)
        cross join pgoutbox.sized_columns(relation) c
        group by r.variable
    )
    select format(
        E'\n            begin%s%s\n            exception when others then null;\n            end;',
        case when has_condition then
            E'\n                if event_action is null then raise exception ''unchosen''; '
            'end if;' end,
        string_agg(s.source, '' order by s.source))
    from stripped s
    having count(*) > 0
$$;
