-- The commit stage: give a transaction its position and commit time.
--
-- A deferred constraint trigger, queued by the transaction's first event (its WHEN clause is
-- false for later ones) and fired once at COMMIT. One function for each slot, since an
-- INSERT that names the slot's table is cheaper than one that is routed. Everything in it is
-- qualified down to the operators; it has no SET clause because that would cost more than
-- all the rest.
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
-- transaction again; the stage then runs again and replaces the earlier row. Which one that
-- was stands in pgoutbox.closed: its position, after an 'o' once the transaction is open again.
--
-- A sleeping relay holds advisory lock K exclusively. Where it can be shared no relay sleeps,
-- nor can one fall asleep before this transaction is visible; otherwise wake it.
do $do$
begin
    for slot in 0..4 loop
        execute pg_catalog.format($create$
create or replace function pgoutbox.commit_stage_%1$s() returns trigger
    language plpgsql
    security definer
as $$
declare
    nothing pg_catalog.text;
begin
    -- Each transaction sets up anew what its INSERT might evaluate, so the ordinary one has an
    -- INSERT with next to nothing in it.
    if pg_catalog.concat(
        pg_catalog.current_setting('pgoutbox.closed', true),
        pg_catalog.current_setting('pgoutbox.nested', true),
        pg_catalog.current_setting('pgoutbox.traceparent', true)
    ) operator(pg_catalog.=) '' then
        insert into pgoutbox.transaction_%1$s (position, xid, first_seq, last_seq, committed_at, slot, lazy)
        values (
            pg_catalog.nextval('pgoutbox.position_seq'::pg_catalog.regclass),
            new.xid,
            new.seq,
            -- Above the last event's; currval() would fail after DISCARD SEQUENCES.
            pg_catalog.nextval('pgoutbox.event_seq'::pg_catalog.regclass),
            pg_catalog.clock_timestamp(),
            %1$s,
            case when pg_catalog.set_config(
                    'pgoutbox.closed',
                    pg_catalog.concat(pg_catalog.currval('pgoutbox.position_seq'::pg_catalog.regclass)),
                    true
                ) is not null and (
                    pg_catalog.pg_try_advisory_xact_lock_shared(1885826914, 0)
                    or pgoutbox.wake_relays()
                )
                then pg_catalog.current_setting('synchronous_commit') operator(pg_catalog.=) 'off' end
        );
        return nothing;
    end if;
    insert into pgoutbox.transaction_%1$s (position, xid, first_seq, last_seq, committed_at, slot, lazy, traceparent)
    values (
        pg_catalog.nextval('pgoutbox.position_seq'::pg_catalog.regclass),
        new.xid,
        pgoutbox.withdraw_%1$s(pg_catalog.current_setting('pgoutbox.closed', true), new.xid, new.seq),
        pg_catalog.nextval('pgoutbox.event_seq'::pg_catalog.regclass),
        pg_catalog.clock_timestamp(),
        case when pg_catalog.current_setting('pgoutbox.nested', true) operator(pg_catalog.=) 'on'
            then pgoutbox.put_in_order_%1$s(new.xid, new.seq)
            else %1$s end,
        case when pg_catalog.set_config(
                'pgoutbox.closed',
                pg_catalog.concat(pg_catalog.currval('pgoutbox.position_seq'::pg_catalog.regclass)),
                true
            ) is not null and (
                pg_catalog.pg_try_advisory_xact_lock_shared(1885826914, 0)
                or pgoutbox.wake_relays()
            )
            then pg_catalog.current_setting('synchronous_commit') operator(pg_catalog.=) 'off' end,
        -- Whatever somebody has set; a good one has 55 characters.
        pg_catalog.left(pg_catalog.current_setting('pgoutbox.traceparent', true), 56)
    );
    return nothing;
end
$$;

-- Take back the row of an earlier commit stage of the same transaction; its first event's
-- sequence number, or `seq` where there is no such row.
create or replace function pgoutbox.withdraw_%1$s(closed text, xid xid8, seq bigint) returns bigint
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    earlier bigint;
begin
    -- Anything else is somebody else's idea of the setting. Not left to an exception handler:
    -- each would be a subtransaction that writes.
    if closed ~ '^o?[0-9]{1,18}$' then
        delete from pgoutbox.transaction_%1$s t
        where t.position = pg_catalog.ltrim(closed, 'o')::bigint and t.xid = withdraw_%1$s.xid
        returning t.first_seq into earlier;
    end if;
    return coalesce(earlier, seq);
end
$$;

-- Order a transaction's events from `first_seq` on as their rows changed; the slot.
--
-- Called where a trigger changed captured rows. Events of one command stand together, where
-- its first one was captured: what the triggers of its first rows changed comes after its last
-- row. An event whose command can't be told is of the one whose events stand on both sides of
-- it. Whatever then still stands before the event that made the row version it replaced, since
-- the command of that one can't be told, is held until after it. Only sequence numbers are
-- exchanged, so their range stays.
create or replace function pgoutbox.put_in_order_%1$s(xid xid8, first_seq bigint) returns integer
    language plpgsql
    set search_path = pg_catalog, pg_temp
    set enable_seqscan = off
    set enable_nestloop = off
as $$
declare
    numbers constant bigint[] := array(
        select e.seq from pgoutbox.event_%1$s e
        where e.xid = put_in_order_%1$s.xid and e.seq >= put_in_order_%1$s.first_seq
        order by e.seq);
    place integer := 0;
    event record;
begin
    -- A COMMIT must not take long for this: of a larger transaction, and of rows that were
    -- changed again a thousand times, events stay as they were captured.
    if pg_catalog.cardinality(numbers) > 100000 then
        return %1$s;
    end if;
    for event in
        with recursive counted as (
            select
                e.ctid, e.seq, e.made, e.replaced, e.schema_name, e.table_name, e.action,
                e.command::text as command,
                pg_catalog.count(e.command) over (order by e.seq) as upto,
                pg_catalog.count(e.command) over (order by e.seq desc) as on_from,
                pg_catalog.count(e.command) over (
                    partition by e.schema_name, e.table_name, e.action order by e.seq) as kind_upto,
                pg_catalog.count(e.command) over (
                    partition by e.schema_name, e.table_name, e.action order by e.seq desc) as kind_on_from
            from pgoutbox.event_%1$s e
            where e.xid = put_in_order_%1$s.xid and e.seq >= put_in_order_%1$s.first_seq
        ), surrounded as (
            select
                c.*,
                pg_catalog.first_value(c.command) over (partition by c.upto order by c.seq) as previous,
                pg_catalog.first_value(c.command) over (partition by c.on_from order by c.seq desc) as following,
                pg_catalog.first_value(c.command) over (
                    partition by c.schema_name, c.table_name, c.action, c.kind_upto order by c.seq) as kind_previous,
                pg_catalog.first_value(c.command) over (
                    partition by c.schema_name, c.table_name, c.action, c.kind_on_from order by c.seq desc) as kind_following
            from counted c
        ), grouped as (
            select
                s.ctid, s.seq, s.made, s.replaced,
                pg_catalog.min(s.seq) over (partition by coalesce(
                    s.command,
                    case when s.previous = s.following then s.previous end,
                    case when s.kind_previous = s.kind_following then s.kind_previous end,
                    'none ' || s.seq)) as group_seq
            from surrounded s
        ), ranked as materialized (
            select g.*, pg_catalog.row_number() over (order by g.group_seq, g.seq) as rank from grouped g
        ), held (rank, made, until, depth) as (
            select r.rank, r.made, maker.rank, 1
            from ranked r join ranked maker on maker.made = r.replaced and maker.rank > r.rank
            union all
            select r.rank, r.made, h.until, h.depth + 1
            from held h join ranked r on r.replaced = h.made and r.rank < h.until and h.depth < 1000
        )
        select r.ctid, r.seq
        from ranked r
        left join (select h.rank, max(h.until) as until from held h group by h.rank) h on h.rank = r.rank
        order by coalesce(h.until, r.rank), r.rank <> coalesce(h.until, r.rank), r.rank
    loop
        place := place + 1;
        if event.seq <> numbers[place] then
            update pgoutbox.event_%1$s e set seq = numbers[place] where e.ctid = event.ctid;
        end if;
    end loop;
    return %1$s;
end
$$;
        $create$, slot);
        if not exists (
            select from pg_catalog.pg_trigger t
            where t.tgrelid = pg_catalog.format('pgoutbox.event_%s', slot)::regclass and t.tgname = 'commit_stage'
        ) then
            execute pg_catalog.format($create$
create constraint trigger commit_stage after insert on pgoutbox.event_%1$s
    deferrable initially deferred for each row when (new.opens)
    execute function pgoutbox.commit_stage_%1$s();
-- Where a capture trigger was told to fire, in a replica's session too, this must.
alter table pgoutbox.event_%1$s enable always trigger commit_stage
            $create$, slot);
        end if;
    end loop;
end
$do$;
