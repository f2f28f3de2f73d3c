-- A choice of rows and columns in which what `asked` has replaces what `before` has.
create or replace function pgoutbox.merged_choice(before jsonb, asked jsonb) returns jsonb
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(jsonb_object_agg(c.key, c.value), '{}')
    from jsonb_each(coalesce(before, '{}') || coalesce(asked, '{}')) c
    where c.value not in ('""', '[]', '[""]')
$$;
