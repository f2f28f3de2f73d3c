-- A relation's name with its schema, quoted where need be; null where it is gone.
create or replace function pgoutbox.qualified_name(relation regclass) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select format('%I.%I', n.nspname, c.relname)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = qualified_name.relation
$$;
