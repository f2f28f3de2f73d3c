-- The values of some columns of a row, of its JSON, as text; null where one of them is null.
create or replace function pgoutbox.values_of(data json, columns text[]) returns text[]
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select array_agg(v.value order by c.place)
    from unnest(columns) with ordinality c (name, place)
    cross join lateral (select data ->> c.name) v (value)
    having count(*) = count(v.value)
$$;
