-- The commit stage: give a transaction its position and commit time.
--
-- A deferred constraint trigger, queued by the transaction's first event and fired once at COMMIT.
-- One function for each slot, since an INSERT that names the slot's table is cheaper than one that
-- is routed; this is slot 0's, and clone_slot_functions.sql makes the others. It has no SET clause
-- because that would cost more than all the rest.
--
-- Order. If B depends on A (saw or overwrote what A wrote, or began its COMMIT after A's had
-- returned), B's commit stage runs after A became visible, so B draws a higher position, and
-- every snapshot that sees B sees A. A transaction that becomes visible late with a lower
-- position overlapped those already sent: nothing depends on its being first. Relays
-- therefore publish what is visible and unsent, by position, and come back for gaps.
--
-- The INSERT takes its lock on the slot's table before the position is drawn and keeps it until the
-- transaction is visible or gone, also when prepared. By these locks a relay tells whether
-- a gap can still be filled (pgoutbox.gap_holders()).
--
-- Expressions run in column order: position, then first_seq, then the rest. An event captured
-- after this (by another deferred trigger, or after SET CONSTRAINTS IMMEDIATE) opens the
-- transaction again; the stage then runs again and replaces the earlier row.
--
-- A deferred check that runs after this could wait for another transaction, or find what that one
-- wrote, which then has the higher position. So where one may be queued behind it (may_defer.sql)
-- the stage only queues itself once more, behind the checks, by a row of the lap's table. What a
-- transaction's first captured statement has queued stands before it anyway.
--
-- SECURITY DEFINER is for servers before PostgreSQL 18, which run a deferred trigger as the role of
-- the COMMIT; later ones run it as the role that queued it, the owner of the capture function.
--
-- A sleeping relay holds advisory lock K exclusively. Where it can be shared no relay sleeps,
-- nor can one fall asleep before this transaction is visible; otherwise commit_unusual() wakes it.
create or replace function pgoutbox.commit_stage_0() returns trigger
    language plpgsql
    security definer
as $$
declare
    nothing pg_catalog.text;
begin
    -- The id before it needn't be compared: it is this transaction's, or somebody made it up.
    if pg_catalog.current_setting('pgoutbox.transaction', true) operator(pg_catalog.~~) '% 1'
        and pg_catalog.pg_try_advisory_xact_lock_shared(1885826914, 0)
        -- Says that the stage has run; as a statement of its own it would cost more.
        and pg_catalog.set_config('pgoutbox.transaction', 'done', true) is not null
    then
        insert into pgoutbox.transaction_0
            (position, xid, first_seq, last_seq, committed_at, traceparent)
        values (
            pg_catalog.nextval('pgoutbox.position_seq'::pg_catalog.regclass),
            new.xid,
            new.seq,
            -- Above the last event's; currval() would fail after DISCARD SEQUENCES.
            pg_catalog.nextval('pgoutbox.event_seq'::pg_catalog.regclass),
            pg_catalog.clock_timestamp(),
            -- Whatever somebody has set; a good one has 55 characters.
            pg_catalog.left(pg_catalog.current_setting('pgoutbox.traceparent', true), 56)
        );
    elsif pg_catalog.current_setting('pgoutbox.transaction', true)
        operator(pg_catalog.~~) '% 1 lap'
    then
        insert into pgoutbox.lap_0 (xid, seq)
        values (
            case when pg_catalog.set_config(
                    'pgoutbox.transaction', pg_catalog.concat(new.xid, ' 1'), true
                ) is not null
                then new.xid end,
            new.seq
        );
    else
        perform pgoutbox.commit_unusual_0(new.xid, new.seq);
    end if;
    return nothing;
end
$$;
