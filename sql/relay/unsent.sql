-- Unsent events, whole transactions in commit order.
--
-- Sent is what the arguments say (see pgoutbox.progress); the relay, the only writer of its
-- progress, has them in memory. First comes the transaction that is sent in part, then by
-- position what is visible and unsent: why that is commit order stands in commit_stage.sql.
-- Inside a transaction: the order in which the rows changed.
--
-- Of gaps up to `settled` only what the transactions `holders` wrote is unsent, and only from the
-- position `again` on one may have shown anything; null where none has.
--
-- `id_source` is what the event id and the commit time follow from, each as its type's binary
-- output has it: transaction id, position, and commit time; 8 bytes each.
--
-- Rows are as they were stored; as_published() makes of them what is published. `bytes` is the size
-- of both, and is_read is false where that is above `max_event_bytes`: such rows are not to be
-- read, so they don't count below. Of what is emitted each byte may have become six by escaping.
--
-- At most `max_events` rows, and no further one once `max_bytes` of row data are reached, so a
-- transaction of any size is read in slices of bounded size. In the last row is_full says
-- whether that was so: the reader can't tell, its bytes are those of another encoding. is_last says
-- that a row is its transaction's last event: the commit stage draws `last_seq` right after that
-- one's number. Where it couldn't, is_last is false, and the reader takes the transaction for
-- one that may go on.
--
-- One statement, so that one snapshot decides; language sql without a SET clause, so that it
-- is inlined into the relay's query and its plan can be read with EXPLAIN. The subqueries with
-- LIMIT make the planner walk the indexes in order, transaction by transaction.
create or replace function pgoutbox.unsent(
    high bigint, gap_first bigint[], gap_last bigint[],
    partial_position bigint, partial_seq bigint,
    max_events integer, max_bytes bigint, max_event_bytes bigint default 9223372036854775807,
    settled bigint default 0, holders xid8[] default '{}', again bigint default null
) returns table (
    "position" bigint, seq bigint, schema_name text, table_name text, action text,
    new_row text, old_row text, id_source bytea, committed_at timestamptz,
    traceparent text, is_full boolean, is_last boolean, bytes bigint,
    is_read boolean
)
    language sql
    stable
as $$
    select
        e."position", e.seq, (e.facts).schema_name, (e.facts).table_name, (e.facts).action,
        e.new_row, e.old_row,
        pg_catalog.xid8send(e.xid)
            operator(pg_catalog.||) pg_catalog.int8send(e."position")
            operator(pg_catalog.||) pg_catalog.timestamptz_send(e.committed_at),
        e.committed_at, nullif(e.traceparent, ''), e.bytes operator(pg_catalog.>=) max_bytes,
        e.seq operator(pg_catalog.>=) (e.last_seq operator(pg_catalog.-) 1),
        e.own_bytes::pg_catalog.int8, e.is_read
    from (
        select
            t."position", t.xid, t.committed_at, t.traceparent, t.last_seq,
            e.seq, e.facts, e.new_row, e.old_row, e.own_bytes,
            r.is_read,
            pg_catalog.sum(case when r.is_read then e.own_bytes else 0 end)
                over (rows unbounded preceding) as bytes
        from (
            -- The unsent positions as ascending ranges: what is sent in part, the gaps, and
            -- all above `high`.
            select
                t.*,
                case when t."position" operator(pg_catalog.=) partial_position
                    then partial_seq operator(pg_catalog.+) 1 else t.first_seq end as next_seq
            from rows from (
                pg_catalog.unnest(
                    array[partial_position] operator(pg_catalog.||) gap_first
                        operator(pg_catalog.||) (high operator(pg_catalog.+) 1)),
                pg_catalog.unnest(
                    array[partial_position] operator(pg_catalog.||) gap_last
                        operator(pg_catalog.||) 9223372036854775807)
            ) with ordinality r (first, last, place)
            cross join lateral (
                select t.*
                from pgoutbox.transaction t
                where t."position" operator(pg_catalog.>=) r.first
                  and t."position" operator(pg_catalog.<=) r.last
                  and (
                      r.place operator(pg_catalog.=) 1
                      or t."position" operator(pg_catalog.<>) partial_position
                  ) is not false
                  and (
                      r.place operator(pg_catalog.=) 1
                      or t."position" operator(pg_catalog.>) settled
                      or t.xid operator(pg_catalog.=) any (holders)
                  )
                order by t."position" limit max_events
            ) t
            where r.place operator(pg_catalog.=) 1
               or r.last operator(pg_catalog.>=)
                    least(settled operator(pg_catalog.+) 1, again)
        ) t
        cross join lateral (
            select
                e.seq, e.facts, e.new_row, e.old_row,
                coalesce(pg_catalog.octet_length(e.new_row), 0)
                    operator(pg_catalog.+) coalesce(pg_catalog.octet_length(e.old_row), 0)
                    as own_bytes
            from pgoutbox.event_in_slot e
            where e.slot operator(pg_catalog.=) t.slot
              and e.xid operator(pg_catalog.=) t.xid
              and e.seq operator(pg_catalog.>=) t.next_seq
              and e.seq operator(pg_catalog.<=) t.last_seq
            order by e.seq
            limit max_events
        ) e
        cross join lateral (
            select e.own_bytes operator(pg_catalog.<=) max_event_bytes
                or e.own_bytes operator(pg_catalog./) 6 operator(pg_catalog.<=) max_event_bytes
                    and (e.facts).action operator(pg_catalog.=) 'EMIT' as is_read
        ) r
        limit max_events
    ) e
    where e.bytes operator(pg_catalog.-)
        case when e.is_read then e.own_bytes else 0 end operator(pg_catalog.<) max_bytes
$$;
