-- The columns of a table's replica identity: the old values that logical decoding gives.
--
-- All for FULL; none for NOTHING, and where there is no suitable index.
create or replace function pgoutbox.identity_columns(relation regclass) returns text[]
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(pg_catalog.array_agg(a.attname::text order by a.attname collate "C"), '{}')
    from pg_catalog.pg_class c
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.oid = relation
      and (
          c.relreplident = 'f'
          or a.attnum = any (
              select pg_catalog.unnest(i.indkey::int2[]) from pg_catalog.pg_index i
              where i.indexrelid = pg_catalog.pg_get_replica_identity_index(relation)
          )
      )
$$;
