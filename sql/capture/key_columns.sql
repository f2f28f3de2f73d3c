-- The columns by which a table's rows are told apart, in the order of their index; null where
-- there are none, or one of them is generated and therefore not in the events.
--
-- The primary key, else the index of REPLICA IDENTITY. With old values as the identity gives
-- them that index comes first, for it is all that is known of a deleted row.
create or replace function pgoutbox.key_columns(relation regclass, old_values text) returns text[]
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select array_agg(a.attname::text order by k.place)
    from pg_index i
    cross join lateral unnest(i.indkey::int2[]) with ordinality k (number, place)
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
    where i.indrelid = relation
      and (i.indisprimary or i.indisreplident) and k.place <= i.indnkeyatts
    group by i.indexrelid, i.indisprimary, i.indisreplident
    having bool_and(a.attgenerated = '')
    order by (old_values = 'identity' and i.indisreplident) desc, i.indisprimary desc
    limit 1
$$;
