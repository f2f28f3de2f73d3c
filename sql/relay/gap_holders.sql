-- The transactions that may have drawn a position and not shown it yet, with the last position that
-- a prepared one can have; null of others, which may draw more.
--
-- The commit stage's INSERT locks its slot's table before it draws a position and keeps the lock
-- until it is visible or gone. A relay asks for these when it has passed a position that it
-- didn't see. Whether one has ended since, the snapshot of each later read tells it: of a
-- transaction that this counts as ended it shows what it wrote, or there is nothing.
--
-- A transaction's id is the lowest that its session has locked; PREPARE keeps both locks. One
-- without an id has ended while we looked. One that had ended before may have its locks still, and
-- may have been sent: it isn't among the holders, since these have sent nothing. The sequence is
-- looked at after the locks, for a prepared transaction draws no more. Unlike an advisory lock, the
-- table's can't be held by a stranger.
create or replace function pgoutbox.gap_holders() returns table (xid xid8, upto bigint)
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    next_xid constant bigint := pg_snapshot_xmax(pg_current_snapshot())::text;
    found_xids xid8[];
    are_prepared boolean[];
    last_position bigint;
begin
    select array_agg(h.xid::text::xid8), array_agg(h.is_prepared) into found_xids, are_prepared
    from (
        -- From 32 bits to 64: what runs is less than half a round away from the next one.
        select
            min(next_xid - 2147483648
                + ((l.transactionid::text::bigint - next_xid + 2147483648) & 4294967295)) as xid,
            l.pid is null as is_prepared
        from pg_locks l
        where l.granted and l.pid is distinct from pg_backend_pid()
        group by l.virtualtransaction, l.pid
        having bool_or(
            l.locktype = 'relation' and l.mode = 'RowExclusiveLock'
            and l.database = (select d.oid from pg_database d where d.datname = current_database())
            and l.relation in (
                select i.inhrelid from pg_inherits i
                where i.inhparent = 'pgoutbox.transaction'::regclass
            )
        )
    ) h
    where not pg_visible_in_snapshot(h.xid::text::xid8, pg_current_snapshot());
    last_position := coalesce(pg_sequence_last_value('pgoutbox.position_seq'), 0);
    return query
        select h.xid, case when h.is_prepared then last_position end
        from unnest(found_xids, are_prepared) h (xid, is_prepared);
end
$$;
