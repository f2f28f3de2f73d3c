-- The statement of a capture function that raises where the row that `variable` holds has a large
-- value; null for a table of which no row has.
create or replace function pgoutbox.small_source(relation regclass, variable text) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select format(
        'if %s operator(pg_catalog.>=) %s then raise exception ''large''; end if;',
        pgoutbox.size_source(relation, variable), pgoutbox.largest_quick(relation))
    where exists (select from pgoutbox.sized_columns(relation))
$$;
