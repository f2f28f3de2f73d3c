-- Empty a slot by TRUNCATE if everything in it is sent by every relay; true where it did.
--
-- Never a DELETE: no vacuum debt, whoever holds a snapshot. Waits at most 50 ms for its locks,
-- so it never queues writers behind itself, and gives up when a transaction that wrote into
-- the slot is still open. Retention is the caller's business.
--
-- First it adopts events without a transaction row: there are none unless somebody forged
-- pgoutbox.transaction in a session that another transaction then used. These get a position
-- now, late but not lost. What was not visible to that look is found again under the lock
-- by transaction id: it was in progress then, or began later.
create or replace function pgoutbox.rotate(target_slot integer) returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '50ms'
as $$
declare
    looked pg_snapshot;
    is_left boolean;
begin
    execute pg_catalog.format('select exists (select from pgoutbox.event_%1$s) or exists (select from pgoutbox.transaction_%1$s)', target_slot) into is_left;
    if not is_left then
        return false;
    end if;
    looked := pg_catalog.pg_current_snapshot();
    execute pg_catalog.format(
        'insert into pgoutbox.transaction_%1$s (position, xid, first_seq, last_seq, committed_at, slot, lazy)
         select pg_catalog.nextval(''pgoutbox.position_seq''), e.xid, min(e.seq), max(e.seq), pg_catalog.clock_timestamp(), %1$s, false
         from pgoutbox.event_%1$s e
         where not exists (
             select from pgoutbox.transaction_%1$s t
             where t.xid = e.xid and e.seq between t.first_seq and t.last_seq
         )
         group by e.xid order by min(e.seq)', target_slot);
    if found then
        return false;
    end if;
    begin
        execute pg_catalog.format('lock table pgoutbox.event_%1$s, pgoutbox.transaction_%1$s in access exclusive mode', target_slot);
    exception when lock_not_available then
        return false;
    end;
    execute pg_catalog.format(
        'select exists (
             select from pgoutbox.event_%1$s e where e.xid >= pg_catalog.pg_snapshot_xmax($1)
         ) or exists (
             select from pg_catalog.pg_snapshot_xip($1) open (xid)
             join pgoutbox.event_%1$s e on e.xid = open.xid
         ) or exists (
             select from pgoutbox.transaction_%1$s t
             where exists (
                 select from pgoutbox.progress p
                 where t.position > p.high or t.position = p.partial_position or exists (
                     select from rows from (pg_catalog.unnest(p.gap_first), pg_catalog.unnest(p.gap_last)) g (first, last)
                     where t.position between g.first and g.last
                 )
             )
         ) or not exists (select from pgoutbox.progress)', target_slot) into is_left using looked;
    if not is_left then
        execute pg_catalog.format('truncate pgoutbox.event_%1$s, pgoutbox.transaction_%1$s', target_slot);
    end if;
    return not is_left;
end
$$;
