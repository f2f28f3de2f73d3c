-- Where the events stand that somebody wants to be sent again: of what the relay has sent, in
-- order, behind those that it has come to.
--
-- At most `max_events`, of transactions up to `upto` only. The joins are nested loops along the
-- indexes in the relay's session, and the order is theirs.
create or replace function pgoutbox.resend_keys(
    request pgoutbox.resend, upto bigint, max_events bigint
) returns table ("position" bigint, seq bigint)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select t.position, e.seq
    from pgoutbox.progress p
    cross join lateral (
        select t.* from pgoutbox.transaction t
        where t.position >= greatest(request.first_position, request.done_position)
          and t.position <= least(request.last_position, upto)
          and (request.since is null or t.committed_at >= request.since)
          and (request.before is null or t.committed_at < request.before)
          and (request.key_positions is null or t.position = any (request.key_positions))
        order by t.position
    ) t
    cross join lateral (
        select e.seq from pgoutbox.event_in_slot e
        where e.slot = t.slot and e.xid = t.xid
          and e.seq >= t.first_seq and e.seq <= t.last_seq
          and (t.position > request.done_position or e.seq > request.done_seq)
          and (request.table_names is null or exists (
              select
              from rows from (
                  unnest(request.table_schemas), unnest(request.table_names)
              ) n (schema_name, table_name)
              where n.table_name = (e.facts).table_name
                and (n.schema_name is null or n.schema_name = (e.facts).schema_name)
          ))
          and (request.key_positions is null or exists (
              select
              from rows from (
                  unnest(request.key_positions), unnest(request.key_seqs)
              ) k ("position", seq)
              where k.position = t.position and k.seq = e.seq
          ))
        order by e.seq
    ) e
    where p.relay = request.relay and pgoutbox.is_sent(p, t.position, t.xid, e.seq)
    limit max_events
$$;
