-- What next_batch() returns, and what messages with headers or keys in their subjects need beside.
--
-- `traceparent` is as the writer had set it, null where that can be none: in a database whose
-- text can be any bytes those would fail the read. `context` is JSON. `key` holds the values of
-- the key's columns as the JSON has them: of the row after the change, or before a DELETE. It is
-- null where no key is known whose columns are all in the row, and without `with_keys`. `old_key`
-- holds those before an UPDATE, `with_old_keys`; null where the event doesn't have them. With a
-- `share` it returns what next_share() does; without one, all.
create or replace function pgoutbox.next_batch_described(
    high bigint, gap_first bigint[], gap_last bigint[],
    partial_position bigint, partial_seq bigint,
    max_events integer, max_bytes bigint, with_keys boolean,
    share jsonb default null, shard integer default 1, shards integer default 1,
    max_event_bytes bigint default 9223372036854775807,
    settled bigint default 0, holders xid8[] default '{}', again bigint default null,
    with_old_keys boolean default false
) returns table (
    "position" bigint, seq bigint, schema_name text, table_name text, action text,
    new_row bytea, old_row bytea, id_source bytea, is_full boolean,
    is_last boolean, bytes bigint, is_read boolean,
    traceparent text, key text[], context text, old_key text[]
)
    language sql
    stable
as $$
    with batch as materialized (
        select u.*
        from pgoutbox.next_share(
            high, gap_first, gap_last, partial_position, partial_seq, max_events, max_bytes,
            share, shard, shards, max_event_bytes, settled, holders, again
        ) u
    ), known as materialized (
        select t.schema_name, t.table_name, k.place, k.columns
        from (
            select distinct b.schema_name, b.table_name from batch b
            where with_keys and b.action is not null
        ) t
        cross join lateral pgoutbox.table_keys(t.schema_name, t.table_name) k
    )
    select
        b."position", b.seq, b.schema_name, b.table_name, b.action,
        case when b.is_read
            then pg_catalog.convert_to(pgoutbox.as_published(b.new_row), 'UTF8') end,
        case when b.is_read
            then pg_catalog.convert_to(pgoutbox.as_published(b.old_row), 'UTF8') end,
        b.id_source, b.is_full, b.is_last, b.bytes, b.is_read,
        case when pg_catalog.left(b.traceparent, 56) operator(pg_catalog.~) '^[0-9a-f-]* *$'
            then pg_catalog.rtrim(pg_catalog.left(b.traceparent, 56)) end,
        keys.key,
        nullif(pg_catalog.substr(b.traceparent, 57), ''),
        keys.old_key
    from batch b
    left join lateral (
        select
            v.key,
            case when with_old_keys and b.new_row is not null
                then pgoutbox.values_in(b.old_row, k.columns) end as old_key
        from known k
        cross join lateral (
            select case when b.is_read
                then pgoutbox.values_in(coalesce(b.new_row, b.old_row), k.columns) end
            offset 0
        ) v (key)
        where k.schema_name operator(pg_catalog.=) b.schema_name
          and k.table_name operator(pg_catalog.=) b.table_name
          and v.key is not null
        order by k.place
        limit 1
    ) keys on true
$$;
