-- Keep a pattern no longer, and return the captured tables that match it, which are to be released.
create or replace function pgoutbox.forget_pattern(schema_like text, table_like text)
    returns setof regclass
    language sql
    set search_path = pg_catalog, pg_temp
as $$
    delete from pgoutbox.captured_pattern p
    where (p.wanted).schema_like = forget_pattern.schema_like
      and (p.wanted).table_like = forget_pattern.table_like;
    select c.oid::regclass
    from pgoutbox.captured_table t
    join pg_class c on c.oid = t.relation
    join pg_namespace n on n.oid = c.relnamespace
    where n.nspname like forget_pattern.schema_like and c.relname like forget_pattern.table_like
    order by t.number
$$;
