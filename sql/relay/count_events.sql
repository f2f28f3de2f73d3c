-- How many events a transaction has after one sequence number and up to another, and the last
-- of them; of `max_events` at most, so that each answer comes soon: go on from `last_seq` then.
create or replace function pgoutbox.count_events(
    "position" bigint, after_seq bigint, upto_seq bigint, max_events integer
) returns table (events bigint, last_seq bigint)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select pg_catalog.count(*), pg_catalog.max(e.seq)
    from pgoutbox.transaction t
    cross join lateral (
        select e.seq
        from pgoutbox.event_in_slot e
        where e.slot = t.slot and e.xid = t.xid
          and e.seq >= t.first_seq and e.seq <= t.last_seq
          and e.seq > after_seq and e.seq <= upto_seq
        order by e.seq
        limit max_events
    ) e
    where t.position = count_events.position
$$;
