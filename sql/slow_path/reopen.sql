-- Open a transaction, also one whose commit stage has already run; always true.
--
-- The stage leaves its row's position in pgoutbox.closed. That is kept, marked with an 'o', so
-- that the next one can replace the earlier row.
create or replace function pgoutbox.reopen() returns boolean
    language sql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
    select pg_catalog.set_config(
               'pgoutbox.closed',
               coalesce('o' || pg_catalog.substring(pg_catalog.current_setting('pgoutbox.closed', true), '^o?([0-9]+)$'), ''),
               true
           ) is not null
       and pg_catalog.set_config('pgoutbox.transaction', pg_catalog.pg_current_xact_id()::text, true) is not null
$$;
