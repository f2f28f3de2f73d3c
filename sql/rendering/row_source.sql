-- An expression of a capture function that renders a row, which `variable` holds ('new', 'old').
--
-- Columns outside `only_columns` are null, as in the old row of a table whose replica identity is a
-- key. In a database whose text can be any bytes, those that aren't UTF-8 are replaced.
create or replace function pgoutbox.row_source(
    relation regclass, variable text, only_columns text[] default null
) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        (
            select format(
                case getdatabaseencoding() when 'SQL_ASCII'
                    then 'pgoutbox.as_utf8(pg_catalog.row_to_json(row(%s)::%s)::pg_catalog.text)'
                    else 'pg_catalog.row_to_json(row(%s)::%s)' end,
                (
                    select string_agg(
                        case when only_columns is null or c.name = any (only_columns)
                            then format(c.value, variable) else 'null' end,
                        E',\n                ' order by c.place)
                    || case when t.attributes like E'%, "\x02" text' then ', null' else '' end
                    from pgoutbox.shape_columns(relation) c
                ),
                t.name)
            from pgoutbox.shape_type(relation) t
        ),
        pgoutbox.row_expression(relation, variable, only_columns)
    )
$$;
