-- An expression that renders a row as the JSON object of an event.
--
-- `variable` is what holds the row ('new', 'old', '($1)'); columns outside `only` are null,
-- as in the old row of a table whose replica identity is a key. Concatenation in groups,
-- since a function takes at most 100 arguments.
create or replace function pgoutbox.row_expression(relation regclass, variable text, only_columns text[] default null)
    returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with part as (
        select
            (pg_catalog.row_number() over ()) as number,
            pg_catalog.format(
                '%L, %s',
                case when pg_catalog.row_number() over () = 1 then '' else ',' end
                    || pg_catalog.to_json(c.name)::text || ':',
                case when only_columns is null or c.name = any (only_columns)
                    then c.expression else pg_catalog.quote_literal('null') end
            ) as arguments
        from pgoutbox.captured_columns(relation, variable) c
    ), grouped as (
        select
            number / 40 as place,
            'pg_catalog.concat(' || pg_catalog.string_agg(arguments, E',\n                    ' order by number) || ')' as expression
        from part group by number / 40
    )
    select coalesce(
        'pg_catalog.concat(''{'', ' || pg_catalog.string_agg(expression, ', ' order by place) || ', ''}'')',
        '''{}'''
    )
    from grouped
$$;
