-- The number of a leadership's advisory lock: 64 bits of its uuid, of which all but two are random.
create or replace function pgoutbox.leader_lock(leadership uuid) returns bigint
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$ select ('x' || right(replace(leadership::text, '-', ''), 16))::bit(64)::bigint $$;
