-- The open transactions that may have drawn a position and not shown it yet.
--
-- The commit stage's INSERT locks its slot's table before it draws a position and keeps the lock
-- until it is visible or gone. A relay notes these when it first sees a gap; once none of them is
-- left it reads again, with a new snapshot, and what still isn't there never will be.
-- A prepared transaction shows up as 'prepared': PREPARE changes its virtual transaction id
-- on PostgreSQL 13. Unlike an advisory lock, this one can't be held by a stranger.
create or replace function pgoutbox.gap_holders() returns text[]
    language sql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(pg_catalog.array_agg(distinct case
        when l.pid is null then 'prepared' else l.virtualtransaction end), '{}')
    from pg_locks l
    where l.locktype = 'relation'
      and l.mode = 'RowExclusiveLock'
      and l.database = (select d.oid from pg_database d where d.datname = current_database())
      and l.relation in (
          select i.inhrelid from pg_inherits i
          where i.inhparent = 'pgoutbox.transaction'::regclass
      )
      and l.pid is distinct from pg_backend_pid()
$$;
