-- An expression of a capture function that renders a row which has no large value, and raises where
-- it gets too long all the same (bounded_source.sql).
create or replace function pgoutbox.quick_source(
    relation regclass, variable text, only_columns text[] default null
) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select case
        when (
            select count(*) <= 10 and bool_and(c.is_length) is not false
            from pgoutbox.sized_columns(relation) c
        ) then r.source || '::pg_catalog.text'
        else pgoutbox.bounded_source(r.source) end
    from (select pgoutbox.row_source(relation, variable, only_columns)) r (source)
$$;
