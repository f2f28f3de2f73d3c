-- Wake sleeping relays when this transaction commits; always true.
--
-- Only called when one sleeps: a transaction with a pending NOTIFY makes all other notifying
-- ones of the cluster wait at commit. NOTIFY also forbids PREPARE TRANSACTION:
-- `set pgoutbox.notify = off` (for a database, a role or a session) leaves it out, and
-- relays then find the transaction at their next poll.
create or replace function pgoutbox.wake_relays() returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(pg_catalog.current_setting('pgoutbox.notify', true), '')
            not in ('off', 'false', 'no', '0')
        -- All databases of a cluster share the queue, and a COMMIT that finds it full fails.
        and pg_catalog.pg_notification_queue_usage() < 0.5
    then
        perform pg_catalog.pg_notify('pgoutbox', '');
    end if;
    return true;
end
$$;
