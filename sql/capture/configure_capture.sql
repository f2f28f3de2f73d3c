-- Set what capture does for all tables; true if that is a change. Null leaves a setting as it is.
--
-- `sessions`: each transaction's context says who its session is. Capture functions send the commit
-- stage to the slow path for it.
-- `all_checks`: transactions get their positions behind the deferred checks of all tables, not only
-- of captured ones. Nothing tells what a statement on a table that isn't captured has queued, so
-- every transaction then runs its commit stage in two laps (commit_stage.sql).
--
-- Capture functions have both built in, so they are made anew.
create or replace function pgoutbox.configure_capture(sessions boolean, all_checks boolean)
    returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    update pgoutbox.installation i
    set captures_sessions = coalesce(sessions, i.captures_sessions),
        awaits_all_checks = coalesce(all_checks, i.awaits_all_checks)
    where i.captures_sessions <> sessions or i.awaits_all_checks <> all_checks;
    if not found then
        return false;
    end if;
    perform pgoutbox.refresh_capture(c.relation)
    from pgoutbox.captured_table c join pg_class r on r.oid = c.relation;
    return true;
end
$$;
