-- The size from which on a table's value is large, in bytes: a row with one isn't rendered by the
-- capture function itself.
--
-- As long as there are up to ten such columns, no row of texts and bytes below it exceeds 64 MiB as
-- JSON, which has at most six bytes for one.
create or replace function pgoutbox.largest_quick(relation regclass) returns integer
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select greatest(1048576, 67108864 / 6 / greatest(1, count(*)::integer))
    from pgoutbox.sized_columns(relation)
$$;
