-- Have each transaction's context say who its session is, or no longer; true if that is a change.
--
-- Capture functions send the commit stage to the slow path for it, so they are made anew.
create or replace function pgoutbox.capture_sessions(wanted boolean) returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    update pgoutbox.installation i set captures_sessions = wanted
    where i.captures_sessions <> wanted;
    if not found then
        return false;
    end if;
    perform pgoutbox.refresh_capture(c.relation)
    from pgoutbox.captured_table c join pg_class r on r.oid = c.relation;
    return true;
end
$$;
