-- Wait until nobody shares the sleep lock K, five seconds at most.
--
-- The request is what counts: behind one that waits nobody can share the lock any more, so writers
-- notify, although one that has it keeps it, and with it relays from taking it. It is made by a
-- session that holds nothing else, so nobody can wait for that. What is waited for briefly keeps no
-- snapshot for long, and an exception that is caught stays out of the server's log.
create or replace function pgoutbox.await_sleep_lock() returns void
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '5s'
as $$
begin
    perform pg_advisory_xact_lock(1885826914, 0);
exception when lock_not_available then
    null;
end
$$;
