-- What a relay publishes next, as wal-listener's messages; see unsent.sql.
create or replace function pgoutbox.next_batch(
    high bigint, gap_first bigint[], gap_last bigint[],
    partial_position bigint, partial_seq bigint,
    max_events integer, max_bytes bigint
) returns table (
    "position" bigint, seq bigint, schema_name text, table_name text, action text,
    id text, payload bytea, lazy boolean, committed_at timestamptz, is_full boolean
)
    language sql
    stable
as $$
    select
        u."position", u.seq, u.schema_name, u.table_name, u.action,
        u.id, u.payload, u.lazy, u.committed_at, u.is_full
    from pgoutbox.unsent(high, gap_first, gap_last, partial_position, partial_seq, max_events, max_bytes) u
$$;
