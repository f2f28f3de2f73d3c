-- The shard of a row, of its JSON: the same that next_share() finds for the row's events.
create or replace function pgoutbox.shard_of(
    names text[], columns text[], data json, shards integer
) returns integer
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select (get_byte(h.hash, 0) * 256 + get_byte(h.hash, 1)) % shards + 1
    from (
        select sha256(convert_to(
            array_to_string(names || pgoutbox.values_of(data, columns), ','), 'UTF8'))
    ) h (hash)
$$;
