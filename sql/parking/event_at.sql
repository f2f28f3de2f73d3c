-- The event at a place of the outbox as it was stored, also after its slot was emptied if somebody
-- has parked it; no row where it is gone.
create or replace function pgoutbox.event_at("position" bigint, seq bigint)
    returns setof pgoutbox.parked_event
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select t.position, e.seq, e.xid, t.committed_at, t.traceparent, e.facts, e.new_row, e.old_row
    from pgoutbox.transaction t
    join pgoutbox.event_in_slot e
        on e.slot = t.slot and e.xid = t.xid and e.seq between t.first_seq and t.last_seq
    where t.position = event_at.position and e.seq = event_at.seq
    union all
    select p.* from pgoutbox.parked_event p
    where p.position = event_at.position and p.seq = event_at.seq
    limit 1
$$;
