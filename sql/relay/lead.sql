-- Become the leader of a relay, for as long as this session lasts: the uuid of the leadership, or
-- null where another session leads. To be called outside of a transaction.
--
-- Of several that find nobody leading, each holds a lock of its own, and the first to replace the
-- uuid that all of them have read gets the lead. Every later write to the progress names the
-- leadership, so a relay that was frozen and has lost the lead changes nothing.
create or replace function pgoutbox.lead(relay text) returns uuid
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    mine constant uuid := gen_random_uuid();
    before pgoutbox.progress;
begin
    select p.* into before from pgoutbox.progress p where p.relay = lead.relay;
    -- What this very session holds is from an earlier client of a pooler.
    if before.leader_pid <> pg_backend_pid() and pgoutbox.is_led(before) then
        return null;
    end if;
    perform pg_advisory_lock(pgoutbox.leader_lock(mine));
    insert into pgoutbox.progress as p (relay, leadership, leader_pid, leader_role)
    select lead.relay, mine, a.pid, a.usesysid
    from pg_stat_activity a where a.pid = pg_backend_pid()
    on conflict on constraint progress_pkey do update
    set leadership = mine, leader_pid = excluded.leader_pid, leader_role = excluded.leader_role,
        method = null, started_at = clock_timestamp()
    where p.leadership is not distinct from before.leadership;
    if not found then
        perform pg_advisory_unlock(pgoutbox.leader_lock(mine));
        return null;
    end if;
    return mine;
end
$$;
