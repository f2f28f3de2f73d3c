-- An expression that renders a row as the JSON object of an event.
--
-- `variable` is what holds the row ('new', 'old'); columns outside `only_columns` are null, as in
-- the old row of a table whose replica identity is a key.
create or replace function pgoutbox.row_expression(
    relation regclass, variable text, only_columns text[] default null
) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select pgoutbox.object_expression(
        array_agg(c.name),
        array_agg(case when only_columns is null or c.name = any (only_columns)
            then c.expression else quote_literal('null') end))
    from pgoutbox.captured_columns(relation, variable) c
$$;
