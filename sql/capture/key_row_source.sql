-- An expression that renders only the key of a row, for one that can't be rendered as a whole:
-- its columns together are beyond 1 GB, the most that PostgreSQL can put into one value.
create or replace function pgoutbox.key_row_source(relation regclass, variable text) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select pgoutbox.object_expression(array_agg(c.name), array_agg(c.expression))
    from pgoutbox.captured_columns(relation, variable) c
    where c.name = any (pgoutbox.key_columns(relation, 'full'))
$$;
