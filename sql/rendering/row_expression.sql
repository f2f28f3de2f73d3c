-- An expression that renders a row as the JSON object of an event.
--
-- `variable` is what holds the row ('new', 'old', '($1)'); columns outside `only_columns` are
-- null, as in the old row of a table whose replica identity is a key. Concatenation in
-- groups where there are many columns, since a function takes at most 100 arguments. In a
-- database whose text can be any bytes, those that aren't UTF-8 are replaced.
create or replace function pgoutbox.row_expression(relation regclass, variable text, only_columns text[] default null)
    returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with part as (
        select
            pg_catalog.row_number() over () as number,
            pg_catalog.format(
                '%L, %s',
                case when pg_catalog.row_number() over () = 1 then '{' else ',' end
                    || pg_catalog.to_json(c.name)::text || ':',
                case when only_columns is null or c.name = any (only_columns)
                    then c.expression else pg_catalog.quote_literal('null') end
            ) as arguments
        from pgoutbox.captured_columns(relation, variable) c
    ), grouped as (
        select
            p.number / 45 as place,
            pg_catalog.string_agg(p.arguments, E',\n                    ' order by p.number) as arguments
        from part p group by p.number / 45
    )
    select pg_catalog.format(
        case pg_catalog.getdatabaseencoding() when 'SQL_ASCII' then 'pgoutbox.as_utf8(%s)' else '%s' end, coalesce(
        'pg_catalog.concat(' || case
            when pg_catalog.count(*) = 1 then pg_catalog.min(g.arguments)
            else pg_catalog.string_agg('pg_catalog.concat(' || g.arguments || ')', ', ' order by g.place)
        end || ', ''}'')',
        '''{}'''
    ))
    from grouped g
$$;
