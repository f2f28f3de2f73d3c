-- Time stamps that RFC 3339 has no form for: NULL, infinity, and years before 1.
--
-- wal-listener publishes year 1 for these. Here they keep PostgreSQL's words: "infinity",
-- "-infinity", "0044-03-15T12:00:00Z BC".
create or replace function pgoutbox.wal_timestamp_beyond(value timestamp) returns text
    language sql
    stable
as $$
    select case
        when value is null then 'null'
        when pg_catalog.isfinite(value) then pg_catalog.replace(pg_catalog.to_json(value)::pg_catalog.text, ' BC', 'Z BC')
        else pg_catalog.to_json(value)::pg_catalog.text end
$$;
