-- Let a relay that has no progress yet begin where others have ended; what keeps it from that.
--
-- Null where it begins there, or has progress; else 'unknown <relay>', 'running <relay>', or
-- 'uneven <position>': they have ended at different places, and all of them can be brought to that
-- position, the last that any of them may have published something of.
create or replace function pgoutbox.begin_after(
    relay text, others text[], share text
) returns text
    language plpgsql
    volatile
    set search_path = pg_catalog, pg_temp
as $$
declare
    problem text;
    places bigint;
    furthest bigint;
begin
    if exists (select from pgoutbox.progress p where p.relay = begin_after.relay) then
        return null;
    end if;
    for look in 1..2 loop
        select case when p.relay is null then 'unknown ' else 'running ' end || o.name
        into problem
        from unnest(others) with ordinality o (name, place)
        left join pgoutbox.progress p on p.relay = o.name
        where p.relay is null or pgoutbox.is_led(p)
        order by o.place limit 1;
        if found then
            return problem;
        end if;
        -- From here on none of them takes the lead; one that just has is found by a second look.
        perform from pgoutbox.progress p where p.relay = any (others) order by p.relay for update;
    end loop;
    select
        count(distinct (
            p.high, p.gap_first, p.gap_last, p.partial_position, p.partial_seq, p.settled,
            p.holders, p.plan
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
        (relay, high, gap_first, gap_last, partial_position, partial_seq, settled,
         holders, holder_since, plan, share, last_stored)
    select
        begin_after.relay, p.high, p.gap_first, p.gap_last, p.partial_position, p.partial_seq,
        p.settled, p.holders, p.holder_since, p.plan, begin_after.share,
        case when cardinality(others) = 1 then p.last_stored end
    from pgoutbox.progress p where p.relay = others[1]
    on conflict do nothing;
    -- What the stream loses of the other's messages is then this relay's to send again.
    insert into pgoutbox.mark (relay, sequence, progress, last_stored, made_at)
    select begin_after.relay, m.sequence, m.progress, m.last_stored, m.made_at
    from pgoutbox.mark m where m.relay = others[1] and cardinality(others) = 1
    on conflict do nothing;
    return null;
end
$$;
