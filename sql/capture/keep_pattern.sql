-- Keep a pattern, so that later tables that match it are captured, too (pattern_matches()).
--
-- `schema_like` and `table_like` are what names are to be LIKE. `excepted` are patterns of the same
-- kind that are left out, as rows of pgoutbox.table_pattern. Actions and old values that are null
-- are the default for new tables.
create or replace function pgoutbox.keep_pattern(
    pattern text, schema_like text, table_like text, excepted jsonb,
    actions text[] default null, old_values text default null, fires_always boolean default null
) returns void
    language sql
    set search_path = pg_catalog, pg_temp
as $$
    insert into pgoutbox.captured_pattern as p
        (pattern, wanted, excepted, actions, old_values, fires_always, schemas)
    select
        keep_pattern.pattern,
        row(keep_pattern.pattern, schema_like, table_like)::pgoutbox.table_pattern,
        array(
            select e::pgoutbox.table_pattern
            from jsonb_populate_recordset(null::pgoutbox.table_pattern, keep_pattern.excepted) e
        ),
        keep_pattern.actions, keep_pattern.old_values, keep_pattern.fires_always,
        array(select n.nspname::text from pg_namespace n where n.nspname like schema_like)
    on conflict on constraint captured_pattern_pkey do update
    set wanted = excluded.wanted, excepted = excluded.excepted, schemas = excluded.schemas,
        actions = coalesce(excluded.actions, p.actions),
        old_values = coalesce(excluded.old_values, p.old_values),
        fires_always = coalesce(excluded.fires_always, p.fires_always)
$$;
