-- Leave a table out of the patterns that are kept, since it is released by its own name; the
-- patterns that it matched. With the rights of this schema's owner, as note_release().
create or replace function pgoutbox.except_table(relation regclass) returns text[]
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    names text[];
begin
    perform pgoutbox.require_owner(relation);
    with named as (
        select n.nspname, c.relname
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.oid = except_table.relation
    ), changed as (
        update pgoutbox.captured_pattern p
        set excepted = p.excepted || row(
            format('%I.%I', t.nspname, t.relname),
            pgoutbox.like_literal(t.nspname), pgoutbox.like_literal(t.relname)
        )::pgoutbox.table_pattern
        from named t
        where t.nspname like (p.wanted).schema_like and t.relname like (p.wanted).table_like
          and not exists (
              select from unnest(p.excepted) e
              where t.nspname like e.schema_like and t.relname like e.table_like)
        returning p.pattern
    )
    select coalesce(array_agg(c.pattern order by c.pattern), '{}') into names from changed c;
    return names;
end
$$;
