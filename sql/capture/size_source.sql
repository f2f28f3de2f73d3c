-- An expression of a capture function for the size of the largest value in the row that `variable`
-- holds ('new', 'old').
create or replace function pgoutbox.size_source(relation regclass, variable text) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select format(
        'greatest(%s)',
        concat_ws(', ', '0', string_agg(format(c.size, variable), ', ' order by c.name)))
    from pgoutbox.sized_columns(relation) c
$$;
