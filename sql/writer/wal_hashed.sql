-- A value as the keyed hash of its text, in a JSON string (keyed_hash.sql).
create or replace function pgoutbox.wal_hashed(value anyelement) returns json
    language sql
    stable
as $$
    select case when value is distinct from null
        then pg_catalog.to_json(pgoutbox.keyed_hash(pg_catalog.concat(value)))
        else 'null'::pg_catalog.json end
$$;
