-- What unsent() returns, in full only where it is in one relay's share of the outbox.
--
-- `share` says what that is, by schema and table: {"public": {"users": true, "logs": false,
-- "orders": ["id"]}} takes all events of users, none of logs, and of orders those whose rows are
-- in `shard`, one of 1 to `shards`. Events that are passed over have neither action nor names, nor
-- rows, which needn't be carried any further. Those of a table that `share` doesn't have have
-- names but no action: the relay is to decide about it, and to read again. Without `share` all
-- events are in it.
--
-- A row's shard depends on nothing that could change between two looks, or between two relays:
-- the SHA-256 of the names of schema and table and the values of the key's columns, with commas
-- between them; of that the first two bytes, modulo `shards`. Where the event doesn't have all
-- of these columns the names alone count. An UPDATE of a key goes by the new one, as {key} does.
-- Emitted events have no names, and their key goes by "key".
create or replace function pgoutbox.next_share(
    high bigint, gap_first bigint[], gap_last bigint[],
    partial_position bigint, partial_seq bigint,
    max_events integer, max_bytes bigint, share jsonb, shard integer, shards integer,
    max_event_bytes bigint default 9223372036854775807,
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
        u."position", u.seq,
        case when s.is_ours is not false then u.schema_name end,
        case when s.is_ours is not false then u.table_name end,
        case when s.is_ours then u.action end,
        case when s.is_ours then u.new_row end,
        case when s.is_ours then u.old_row end,
        u.id_source, u.committed_at, u.traceparent, u.is_full, u.is_last, u.bytes,
        u.is_read
    from pgoutbox.unsent(
        high, gap_first, gap_last, partial_position, partial_seq, max_events, max_bytes,
        max_event_bytes, settled, holders, again) u
    -- OFFSET 0: each is worked out once a row, however often it is used.
    cross join lateral (
        select share operator(pg_catalog.->) u.schema_name operator(pg_catalog.->) u.table_name
            as columns
        offset 0
    ) t
    cross join lateral (
        select case when pg_catalog.jsonb_typeof(t.columns) operator(pg_catalog.=) 'array'
            then pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.concat_ws(
                ',', u.schema_name, u.table_name,
                pg_catalog.array_to_string(
                    pgoutbox.values_in(
                        coalesce(u.new_row, u.old_row),
                        array(select pg_catalog.jsonb_array_elements_text(t.columns))),
                    ',')), 'UTF8'))
        end as hash
        offset 0
    ) h
    cross join lateral (
        select case
            when share is null then true
            when h.hash is null then t.columns::pg_catalog.bool
            else (pg_catalog.get_byte(h.hash, 0) operator(pg_catalog.*) 256
                operator(pg_catalog.+) pg_catalog.get_byte(h.hash, 1))
                operator(pg_catalog.%) shards operator(pg_catalog.+) 1 operator(pg_catalog.=) shard
        end as is_ours
        offset 0
    ) s
$$;
