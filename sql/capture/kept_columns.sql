-- The columns that a table's events always have: those of its primary key and replica identity.
create or replace function pgoutbox.kept_columns(relation regclass) returns text[]
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(array_agg(distinct a.attname::text order by a.attname::text), '{}')
    from pg_index i
    cross join lateral unnest((i.indkey::int2[])[:i.indnkeyatts - 1]) k (number)
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
    where i.indrelid = relation and (i.indisprimary or i.indisreplident)
$$;
