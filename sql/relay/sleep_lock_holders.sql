-- The sessions that hold the sleep lock K, and whether each leads a relay. One that doesn't is a
-- writer in the middle of its commit, or a stranger, whom nothing keeps from taking it: then each
-- commit notifies, as when a relay has it (await_sleep_lock.sql).
create or replace function pgoutbox.sleep_lock_holders()
    returns table (pid integer, application text, mode text, leads boolean)
    language sql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
    select
        l.pid, coalesce(a.application_name, ''), l.mode,
        l.pid in (select p.leader_pid from pgoutbox.progress p where pgoutbox.is_led(p))
    from pg_locks l left join pg_stat_activity a on a.pid = l.pid
    where l.locktype = 'advisory' and l.objsubid = 2 and l.granted and l.pid is not null
      and l.classid = 1885826914 and l.objid = 0
      and l.database = (select d.oid from pg_database d where d.datname = current_database())
    order by l.pid
$$;
