-- The keys that a row of the table of that name may have had, the likeliest first: as it is now,
-- and as it was before. Events carry the names that their table and its columns had. Emitted ones
-- have neither schema nor table, and their key stands beside their payload (emit.sql).
create or replace function pgoutbox.table_keys(schema_name text, table_name text)
    returns table (place bigint, columns text[])
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with named as (
        select r.oid::regclass as relation
        from pg_class r join pg_namespace n on n.oid = r.relnamespace
        where n.nspname = table_keys.schema_name and r.relname = table_keys.table_name
    ), captured as (
        select c.relation, c.old_values, c.keys from pgoutbox.captured_table c
        where (c.schema_name, c.table_name) = (table_keys.schema_name, table_keys.table_name)
           or c.relation in (select n.relation from named n)
    )
    select row_number() over (order by k.age), k.columns
    from (
        select 0 as age, pgoutbox.key_columns(c.relation, c.old_values) as columns from captured c
        union all
        select 0, pgoutbox.key_columns(n.relation, 'full') from named n
        where not exists (select from captured)
        union all
        select 0, '{key}' where schema_name = '' and table_name = ''
        union all
        select k.age, array(select jsonb_array_elements_text(k.columns))
        from captured c
        cross join lateral jsonb_array_elements(c.keys) with ordinality k (columns, age)
    ) k
    where k.columns is not null
$$;
