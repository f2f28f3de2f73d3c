-- The ring of slots: for how many seconds transactions begin in one, and how many there are.
--
-- pgoutbox/config reads the two numbers here. They are fixed: a change while transactions are open
-- would tear these apart, and the migration makes the slots' tables.
create or replace function pgoutbox.ring(out period integer, out slots integer)
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$ select 900, 5 $$;
