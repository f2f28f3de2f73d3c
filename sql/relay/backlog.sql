-- Unsent events of a relay: how many, and when the oldest was committed.
create or replace function pgoutbox.backlog(relay text, out events bigint, out oldest timestamptz)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select
        coalesce(sum(e.unsent), 0)::bigint,
        min(t.committed_at) filter (where e.unsent > 0)
    from (
        select p.* from pgoutbox.progress p where p.relay = backlog.relay
        union all
        select
            backlog.relay, null, null, null, 0, '{}', '{}', null, null, 0, '{}', '{}', 'null', null,
            now(), '', null
        where not exists (select from pgoutbox.progress p where p.relay = backlog.relay)
    ) p
    cross join lateral (
        select t.* from pgoutbox.transaction t where t.position > p.high
        union all
        select t.* from rows from (unnest(p.gap_first), unnest(p.gap_last)) g (first, last)
        join pgoutbox.transaction t on t.position between g.first and g.last
        where (t.position > p.settled or t.xid = any (p.holders))
          and g.last >= least(p.settled + 1, pgoutbox.ended_since(p.holders, p.holder_since))
    ) t
    -- A subquery for each transaction, so that it looks into that one's slot only.
    cross join lateral (
        select count(*) as unsent
        from pgoutbox.event_in_slot e
        where e.slot = t.slot and e.xid = t.xid and e.seq between t.first_seq and t.last_seq
          and (e.seq > p.partial_seq or t.position is distinct from p.partial_position)
    ) e
$$;
