-- What a relay publishes next: the parts of wal-listener's messages; see unsent.sql.
--
-- Rows are rendered, in UTF-8. The relay puts around them what follows from `id_source`
-- (pgoutbox/messages/envelope.py), for a third of what it costs here.
create or replace function pgoutbox.next_batch(
    high bigint, gap_first bigint[], gap_last bigint[],
    partial_position bigint, partial_seq bigint,
    max_events integer, max_bytes bigint
) returns table (
    "position" bigint, seq bigint, schema_name text, table_name text, action text,
    new_row bytea, old_row bytea, id_source bytea, lazy boolean, is_full boolean,
    is_last boolean
)
    language sql
    stable
as $$
    select
        u."position", u.seq, u.schema_name, u.table_name, u.action,
        pg_catalog.convert_to(u.new_row, 'UTF8'), pg_catalog.convert_to(u.old_row, 'UTF8'),
        u.id_source,
        u.lazy, u.is_full, u.is_last
    from pgoutbox.unsent(
        high, gap_first, gap_last, partial_position, partial_seq, max_events, max_bytes) u
$$;
