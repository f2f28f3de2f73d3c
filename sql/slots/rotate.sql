-- Empty a slot by TRUNCATE if everything in it is sent by every relay; true where it did.
--
-- Never a DELETE: no vacuum debt, whoever holds a snapshot. Never waits for its locks, so nobody
-- queues behind it; for a second it tries again and again, since relays read all the time, then
-- gives up: a transaction that wrote into the slot is still open. While it holds them it only
-- looks up indexes. Retention is the caller's business.
--
-- First it adopts events without a transaction row: there are none unless somebody forged
-- pgoutbox.transaction in a session that another transaction then used. These become events of the
-- transaction that found them, late but not lost. Under the lock it makes sure that nothing has
-- come since: by transaction id, of those in progress at that look or later. Counted, not only
-- looked for, since a restored outbox has ids of another cluster, which may be higher than any of
-- this one.
create or replace function pgoutbox.rotate(target_slot integer) returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
    set max_parallel_workers_per_gather = 0
as $$
declare
    event_xids constant text := format(
        'select e.xid from pgoutbox.first_event_%1$s e
         union all select e.xid from pgoutbox.event_%1$s e', target_slot);
    -- LIMIT keeps the planner from reading all of the slot for a join or a hash table.
    has_unsent constant text := format(
        'select not exists (select from pgoutbox.progress) or exists (
             select from pgoutbox.progress p
             where exists (select from pgoutbox.transaction_%1$s t where t.position > p.high)
                or (
                    select true from pgoutbox.transaction_%1$s t
                    where t.position = p.partial_position limit 1
                )
                or exists (
                    select from rows from (unnest(p.gap_first), unnest(p.gap_last)) g (first, last)
                    cross join lateral (
                        select from pgoutbox.transaction_%1$s t
                        where t.position between greatest(g.first, p.settled + 1) and g.last
                        limit 1
                    ) t
                )
                -- Looked up by id, for many positions may lie in one gap.
                or exists (
                    select from unnest(p.holders) h (xid)
                    cross join lateral (
                        select from (%2$s) e where e.xid = h.xid limit 1
                    ) e
                )
         )', target_slot, event_xids);
    count_since constant text := format(
        'select (select count(*) from (%2$s) e where e.xid >= pg_catalog.pg_snapshot_xmax($1))
              + (select count(*) from pg_catalog.pg_snapshot_xip($1) open (xid)
                 join (%2$s) e on e.xid = open.xid)',
        target_slot, event_xids);
    looked pg_snapshot;
    counted bigint;
    adopted bigint;
    is_left boolean;
    is_locked boolean := false;
begin
    execute format(
        'select not exists (select from pgoutbox.first_event_%1$s)
            and not exists (select from pgoutbox.event_%1$s)
            and not exists (select from pgoutbox.transaction_%1$s)',
        target_slot) into is_left;
    if is_left then
        return false;  -- empty already
    end if;
    execute has_unsent into is_left;
    if is_left then
        return false;
    end if;
    -- Nobody waits behind its locks for a standby to confirm what it adopts.
    perform set_config('synchronous_commit', 'local', true);
    looked := pg_current_snapshot();
    execute count_since into counted using looked;
    -- The one statement that reads everything, and the only one that should.
    perform set_config('enable_seqscan', 'on', true);
    perform set_config('enable_hashjoin', 'on', true);
    execute format(
        'with first_event as (
             update pgoutbox.first_event_%1$s e set xid = pg_catalog.pg_current_xact_id()
             where not exists (
                 select from pgoutbox.transaction_%1$s t
                 where t.xid = e.xid and e.seq between t.first_seq and t.last_seq
             )
             returning e.seq
         ), event as (
             update pgoutbox.event_%1$s e set xid = pg_catalog.pg_current_xact_id()
             where not exists (
                 select from pgoutbox.transaction_%1$s t
                 where t.xid = e.xid and e.seq between t.first_seq and t.last_seq
             )
             returning e.seq
         )
         insert into pgoutbox.transaction_%1$s
             (position, xid, first_seq, last_seq, committed_at)
         select
             nextval(''pgoutbox.position_seq''), pg_catalog.pg_current_xact_id(), min(e.seq),
             max(e.seq) + 1, clock_timestamp()
         from (table first_event union all table event) e
         having count(*) > 0', target_slot);
    get diagnostics adopted = row_count;
    if adopted > 0 then
        return false;
    end if;
    -- What is parked of a slot that is sent was parked before: none can come after this.
    perform pgoutbox.keep_parked(target_slot);
    perform set_config('enable_seqscan', 'off', true);
    perform set_config('enable_hashjoin', 'off', true);
    for attempt in 1..50 loop
        begin
            execute format(
                'lock table pgoutbox.first_event_%1$s, pgoutbox.event_%1$s, pgoutbox.lap_%1$s,
                     pgoutbox.transaction_%1$s in access exclusive mode nowait', target_slot);
            is_locked := true;
            exit;
        exception when lock_not_available then
            perform pg_sleep(0.02);
        end;
    end loop;
    if not is_locked then
        return false;
    end if;
    execute format('select (%s) <> $2', count_since) into is_left using looked, counted;
    if not is_left then
        execute has_unsent into is_left;
    end if;
    if not is_left then
        execute format(
            'truncate pgoutbox.first_event_%1$s, pgoutbox.event_%1$s, pgoutbox.transaction_%1$s',
            target_slot);
        -- Not what is empty: to truncate a table that is unlogged waits for the disk.
        if pg_relation_size(format('pgoutbox.lap_%s', target_slot)) > 0 then
            execute format('truncate pgoutbox.lap_%s', target_slot);
        end if;
    end if;
    return not is_left;
end
$$;
