-- Have transactions get their positions behind the deferred checks of all tables, or again only of
-- captured ones; true if that is a change.
--
-- Nothing tells what a statement on a table that isn't captured has queued, so every transaction
-- then runs its commit stage in two laps (commit_stage.sql). Capture functions are made anew.
create or replace function pgoutbox.await_all_checks(wanted boolean) returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    update pgoutbox.installation i set awaits_all_checks = wanted
    where i.awaits_all_checks <> wanted;
    if not found then
        return false;
    end if;
    perform pgoutbox.refresh_capture(c.relation)
    from pgoutbox.captured_table c join pg_class r on r.oid = c.relation;
    return true;
end
$$;
