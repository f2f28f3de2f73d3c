-- The part of a slow function that takes out of both rows what can't be published, before they are
-- handed to capture_slowly(), and notes it (too_large.sql): there a row is copied, several times.
-- Null for a table of which no row has a large value.
--
-- Nothing is taken out where the function doesn't fit the table, or before a condition is
-- evaluated, which needs the whole row. If it fails, the row is rendered with what is left in it.
-- Nothing here may run code of the table's owner: to assign to a domain is to check it, and before
-- PostgreSQL 14 a plain null is a text, of which a cast makes the column's type.
create or replace function pgoutbox.strip_source(relation regclass, has_condition boolean)
    returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with noted as (
        select string_agg(r.source, '' order by r.source) as source
        from (
            select format(
                E'\n                %1$s_large := pgoutbox.too_large(%2$L, array[%3$s]);',
                v.variable,
                array_agg(c.name order by c.name),
                string_agg(format(c.size, v.variable), ', ' order by c.name))
            from (values ('new'), ('old')) v (variable)
            cross join pgoutbox.sized_columns(relation) c
            where c.size is not null
            group by v.variable
        ) r (source)
    ), stripped as (
        select coalesce(string_agg(
            E'\n                ' || format(
                case when c.size is null then '%2$s := %3$s;'
                    else 'if %1$s_large operator(pg_catalog.?) %4$L then %2$s := %3$s; end if;' end,
                v.variable, f.field, format('case when false then %s end', f.field), c.name),
            '' order by v.variable, c.name), '') as source
        from (values ('new'), ('old')) v (variable)
        cross join pgoutbox.sized_columns(relation) c
        cross join lateral (select format(c.field, v.variable)) f (field)
        where not c.is_domain
    )
    select format(
        E'\n        begin'
        '\n            if %s then%s%s'
        '\n            end if;'
        '\n        exception when others then null;'
        '\n        end;',
        pgoutbox.fits_source(
            relation, case when has_condition then 'facts.action is not null' else 'true' end),
        noted.source,
        stripped.source)
    from noted cross join stripped
    where noted.source is not null
$$;
