-- The lc_monetary in which money is rendered: what it was when capture_slowly() was made.
create or replace function pgoutbox.monetary_locale() returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select pg_catalog.btrim(pg_catalog.substr(setting, pg_catalog.strpos(setting, '=') + 1), '"')
    from pg_catalog.pg_proc f, pg_catalog.unnest(f.proconfig) setting
    where f.oid = pg_catalog.to_regproc('pgoutbox.capture_slowly') and setting like 'lc_monetary=%'
$$;
