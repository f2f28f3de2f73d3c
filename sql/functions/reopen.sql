-- Open a transaction again whose commit stage has already run; always true.
--
-- Keeps what the stage left in pgoutbox.transaction ('c' and its position), so that the next
-- one can replace the earlier row.
create or replace function pgoutbox.reopen() returns boolean
    language sql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
    select pg_catalog.set_config('pgoutbox.closed', pg_catalog.current_setting('pgoutbox.transaction'), true) is not null
       and pg_catalog.set_config('pgoutbox.transaction', pg_catalog.pg_current_xact_id()::text, true) is not null
$$;
