-- Refresh the capture functions of drifted tables; for the leader of a relay, now and then.
--
-- Returns the tables that had a problem (see pgoutbox.table_state), by the name that was asked for
-- and the one that they have; of these 'drift' is mended. A rename is drift, too. Looking at a
-- table can take a lock on it, so each wait is short: where an ALTER TABLE is under way the table
-- is left for the next time, since the relay must not wait for it.
create or replace function pgoutbox.mend_drift()
    returns table (asked_name text, present_name text, problem text)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '50ms'
as $$
declare
    captured pgoutbox.captured_table;
begin
    -- All at once if possible: that is cheap, and nearly always finds nothing.
    begin
        perform pgoutbox.note_always();
        if not exists (select from pgoutbox.table_state s where s.problem is not null) then
            return;
        end if;
    exception when lock_not_available then
        null;
    end;
    for captured in select c.* from pgoutbox.captured_table c order by c.number loop
        begin
            select s.asked_name, s.present_name, s.problem into asked_name, present_name, problem
            from pgoutbox.table_state s where s.relation = captured.relation;
            -- Another table may have its old name, and it goes on being captured all the same.
            if problem in ('drift', 'replaced') and captured.shape
                <> pgoutbox.table_shape(captured.relation, captured.old_values)
            then
                perform pgoutbox.refresh_capture(captured.relation);
            end if;
            if problem is not null then
                return next;
            end if;
        exception when lock_not_available then
            null;
        end;
    end loop;
end
$$;
