-- The tables of these names in any schema, as wal-listener's filter names them: bare, and letter
-- by letter.
create or replace function pgoutbox.tables_named(names text[])
    returns table (relation regclass, name text, is_partitioned boolean)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select c.oid, c.relname, c.relkind = 'p'
    from pg_class c
    where c.relname = any (names) and pgoutbox.why_not_capture(c.oid) is null
    order by c.oid::regclass::text
$$;
