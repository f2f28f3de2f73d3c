-- What a relay publishes next: the parts of wal-listener's messages; see unsent.sql.
--
-- Rows are rendered, in UTF-8. The relay puts around them what follows from `id_source`
-- (pgoutbox/messages/envelope.py), for a third of what it costs here. Of an event above
-- `max_event_bytes` there are no rows: it is known by its `bytes`.
create or replace function pgoutbox.next_batch(
    high bigint, gap_first bigint[], gap_last bigint[],
    partial_position bigint, partial_seq bigint,
    max_events integer, max_bytes bigint, max_event_bytes bigint default 9223372036854775807,
    settled bigint default 0, holders xid8[] default '{}', again bigint default null
) returns table (
    "position" bigint, seq bigint, schema_name text, table_name text, action text,
    new_row bytea, old_row bytea, id_source bytea, is_full boolean,
    is_last boolean, bytes bigint, is_read boolean
)
    language sql
    stable
as $$
    select
        u."position", u.seq, u.schema_name, u.table_name, u.action,
        case when u.is_read
            then pg_catalog.convert_to(pgoutbox.as_published(u.new_row), 'UTF8') end,
        case when u.is_read
            then pg_catalog.convert_to(pgoutbox.as_published(u.old_row), 'UTF8') end,
        u.id_source, u.is_full, u.is_last, u.bytes, u.is_read
    from pgoutbox.unsent(
        high, gap_first, gap_last, partial_position, partial_seq, max_events, max_bytes,
        max_event_bytes, settled, holders, again) u
$$;
