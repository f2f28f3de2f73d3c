-- Note the schemas that have appeared since the patterns were given, once that has been said.
create or replace function pgoutbox.note_schemas() returns void
    language sql
    set search_path = pg_catalog, pg_temp
as $$
    update pgoutbox.captured_pattern p
    set schemas = p.schemas || n.names
    from (
        select k.pattern, array_agg(n.nspname::text) as names
        from pgoutbox.captured_pattern k
        join pg_namespace n on n.nspname like (k.wanted).schema_like
        where n.nspname <> all (k.schemas)
        group by k.pattern
    ) n
    where n.pattern = p.pattern
$$;
