-- A name as a pattern of LIKE that only this name fits.
create or replace function pgoutbox.like_literal(name text) returns text
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$ select regexp_replace(name, E'([\\\\%_])', E'\\\\\\1', 'g') $$;
