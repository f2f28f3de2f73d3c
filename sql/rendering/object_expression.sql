-- An expression that makes a JSON object of names and of expressions for their values.
--
-- Concatenation in groups where there are many, since a function takes at most 100 arguments. In
-- a database whose text can be any bytes, those that aren't UTF-8 are replaced.
create or replace function pgoutbox.object_expression(names text[], expressions text[]) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with part as (
        select
            p.number,
            format(
                '%L, %s',
                case when p.number = 1 then '{' else ',' end || to_json(p.name)::text || ':',
                p.expression
            ) as arguments
        from unnest(names, expressions) with ordinality p (name, expression, number)
    ), grouped as (
        select
            p.number / 45 as place,
            string_agg(p.arguments, E',\n                    ' order by p.number) as arguments
        from part p group by p.number / 45
    )
    select format(
        case getdatabaseencoding() when 'SQL_ASCII' then 'pgoutbox.as_utf8(%s)' else '%s' end,
        coalesce('pg_catalog.concat(' || case
            when count(*) = 1 then min(g.arguments)
            else string_agg('pg_catalog.concat(' || g.arguments || ')', ', ' order by g.place)
        end || ', ''}'')', '''{}''')
    )
    from grouped g
$$;
