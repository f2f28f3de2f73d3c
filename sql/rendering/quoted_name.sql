-- A column's name in quotes, for generated code: PL/pgSQL has keywords of its own, which
-- quote_ident() leaves as they are.
create or replace function pgoutbox.quoted_name(name text) returns text
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$ select concat('"', replace(name, '"', '""'), '"') $$;
