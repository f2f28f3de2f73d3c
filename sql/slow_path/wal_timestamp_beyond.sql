-- Time stamps that RFC 3339 has no form for: infinity, and years before 1.
--
-- wal-listener publishes year 1 for these. Here they keep PostgreSQL's words: "infinity",
-- "-infinity", "0044-03-15T12:00:00Z BC". In plpgsql, so that it is not inlined: expressions
-- are set up anew in each transaction, and the size of this one would be paid for every row.
create or replace function pgoutbox.wal_timestamp_beyond(value timestamp) returns text
    language plpgsql
    stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    if pg_catalog.isfinite(value) then
        return pg_catalog.replace(pg_catalog.to_json(value)::text, ' BC', 'Z BC');
    end if;
    return pg_catalog.to_json(value)::text;
end
$$;
