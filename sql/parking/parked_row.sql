-- A parked event as next_batch_described() returns it; no row where its slot was emptied meanwhile
-- without it. Raises what made it unreadable, where that hasn't changed.
create or replace function pgoutbox.parked_row(
    parked_position bigint, parked_seq bigint, with_keys boolean, max_event_bytes bigint
) returns table (
    "position" bigint, seq bigint, schema_name text, table_name text, action text,
    new_row bytea, old_row bytea, id_source bytea, is_full boolean,
    is_last boolean, bytes bigint, is_read boolean,
    traceparent text, key text[], context text
)
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select
        e.position, e.seq, (e.facts).schema_name, (e.facts).table_name, (e.facts).action,
        case when s.is_read
            then convert_to(pgoutbox.as_published(e.new_row), 'UTF8') end,
        case when s.is_read
            then convert_to(pgoutbox.as_published(e.old_row), 'UTF8') end,
        xid8send(e.xid) || int8send(e.position) || timestamptz_send(e.committed_at),
        false, true, s.bytes, s.is_read,
        case when left(e.traceparent, 56) ~ '^[0-9a-f-]+ *$'
            then rtrim(left(e.traceparent, 56)) end,
        case when with_keys and s.is_read then (
            select v.key
            from pgoutbox.table_keys((e.facts).schema_name, (e.facts).table_name) k
            cross join lateral pgoutbox.values_in(coalesce(e.new_row, e.old_row), k.columns) v (key)
            where v.key is not null
            order by k.place
            limit 1
        ) end,
        nullif(substr(e.traceparent, 57), '')
    from pgoutbox.event_at(parked_position, parked_seq) e
    cross join lateral (
        select
            b.bytes,
            b.bytes <= max_event_bytes
                or b.bytes / 6 <= max_event_bytes and (e.facts).action = 'EMIT' as is_read
        from (
            select coalesce(octet_length(e.new_row), 0)::bigint
                + coalesce(octet_length(e.old_row), 0)
        ) b (bytes)
    ) s
$$;
