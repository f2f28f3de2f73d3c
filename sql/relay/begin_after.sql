-- Let a relay that has no progress yet begin where others have ended; what keeps it from that.
--
-- `locks` are the second keys of the others' leader locks. Null where it begins there, or has
-- progress; else 'unknown <relay>', 'running <relay>', or 'uneven <position>': they have ended
-- at different places, and all of them can be brought to that position, the last that any of them
-- may have published something of.
create or replace function pgoutbox.begin_after(
    relay text, others text[], locks integer[], share text
) returns text
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    other text;
    lock integer;
    places bigint;
    furthest bigint;
begin
    if exists (select from pgoutbox.progress p where p.relay = begin_after.relay) then
        return null;
    end if;
    for other, lock in
        select o.name, o.key from rows from (unnest(others), unnest(locks)) o (name, key)
    loop
        if not exists (select from pgoutbox.progress p where p.relay = other) then
            return 'unknown ' || other;
        elsif not pg_try_advisory_xact_lock(1885826915, lock) then
            return 'running ' || other;
        end if;
    end loop;
    select
        count(distinct (
            p.high, p.gap_first, p.gap_last, p.partial_position, p.partial_seq, p.plan
        )),
        max(greatest(
            p.high, p.partial_position,
            (p.plan -> -1 ->> 'high')::bigint, (p.plan -> -1 -> 'partial' ->> 0)::bigint
        ))
    into places, furthest
    from pgoutbox.progress p where p.relay = any (others);
    if places > 1 then
        return 'uneven ' || furthest;
    end if;
    insert into pgoutbox.progress
        (relay, leadership, high, gap_first, gap_last, partial_position, partial_seq, plan, share)
    select
        begin_after.relay, 0, p.high, p.gap_first, p.gap_last, p.partial_position, p.partial_seq,
        p.plan, begin_after.share
    from pgoutbox.progress p where p.relay = others[1];
    return null;
end
$$;
