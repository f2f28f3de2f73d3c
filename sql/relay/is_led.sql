-- Whether a relay has a leader: in this database the session that its progress names, of the role
-- that it names, holds the lock of that leadership.
--
-- Anybody may take any advisory lock. But nobody knows the number of a leadership before it has
-- begun, and whoever queues for it then, or takes it afterwards, is another session; and if the
-- server gives that the same pid one day, still of another role. PostgreSQL shows all of this to
-- every role.
create or replace function pgoutbox.is_led(progress pgoutbox.progress) returns boolean
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_stat_clear_snapshot();  -- which may be from before the progress was written
    return exists (
        select from pg_locks l join pg_stat_activity a on a.pid = l.pid
        where l.locktype = 'advisory' and l.objsubid = 1 and l.granted
          and l.pid = progress.leader_pid and a.usesysid = progress.leader_role
          and l.classid::bigint << 32 | l.objid::bigint
              = pgoutbox.leader_lock(progress.leadership)
          and l.database = (select d.oid from pg_database d where d.datname = current_database())
    );
end
$$;
