-- What a relay publishes next: the parts of wal-listener's messages; see unsent.sql.
--
-- Rows are rendered, in UTF-8. `id_source` is what the event id and the commit time follow from,
-- each as its type's binary output has it: transaction id, position, and commit time; 8 bytes
-- each. The relay puts both around the rows (pgoutbox/message.py), for a third of what it costs here.
create or replace function pgoutbox.next_batch(
    high bigint, gap_first bigint[], gap_last bigint[],
    partial_position bigint, partial_seq bigint,
    max_events integer, max_bytes bigint
) returns table (
    "position" bigint, seq bigint, schema_name text, table_name text, action text,
    new_row bytea, old_row bytea, id_source bytea, lazy boolean, is_full boolean
)
    language sql
    stable
as $$
    select
        u."position", u.seq, u.schema_name, u.table_name, u.action,
        pg_catalog.convert_to(u.new_row, 'UTF8'), pg_catalog.convert_to(u.old_row, 'UTF8'),
        pg_catalog.xid8send(u.xid)
            operator(pg_catalog.||) pg_catalog.int8send(u."position")
            operator(pg_catalog.||) pg_catalog.timestamptz_send(u.committed_at),
        u.lazy, u.is_full
    from pgoutbox.unsent(high, gap_first, gap_last, partial_position, partial_seq, max_events, max_bytes) u
$$;
