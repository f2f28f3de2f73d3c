-- Every event with its id, position and time, and whether relays have sent it; for people.
create or replace view pgoutbox.outbox as
select
    pgoutbox.event_id(i.id, t.xid, t.position, t.committed_at, e.seq) as id,
    t.position,
    e.seq,
    t.committed_at,
    (e.facts).schema_name,
    (e.facts).table_name,
    (e.facts).action,
    case when pg_catalog.starts_with(e.new_row, E'"\\u0002') then e.new_row
        else coalesce(pgoutbox.as_published(e.new_row), '{}') end::json as data,
    coalesce(pgoutbox.as_published(e.old_row), '{}')::json as data_old,
    array(
        select p.relay from pgoutbox.progress p
        where pgoutbox.is_sent(p, t.position, t.xid, e.seq)
        order by p.relay
    ) as sent_by
from pgoutbox.transaction t
join pgoutbox.event_in_slot e
    on e.slot = t.slot and e.xid = t.xid and e.seq between t.first_seq and t.last_seq
cross join pgoutbox.installation i;

comment on view pgoutbox.outbox is
    'Events in the outbox: id, position, content, and the relays that have sent each.';
