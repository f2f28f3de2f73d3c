-- The columns of a table's replica identity: the old values that logical decoding gives.
--
-- All for FULL; none for NOTHING, and where there is no suitable index. All, too, where a
-- column of the key is generated, and therefore not in the events.
create or replace function pgoutbox.identity_columns(relation regclass) returns text[]
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    with identity as (
        -- Columns that the index merely includes are none of its key.
        select pg_catalog.unnest((i.indkey::int2[])[:i.indnkeyatts - 1]) as number
        from pg_catalog.pg_index i
        where i.indexrelid = pg_catalog.pg_get_replica_identity_index(relation)
    )
    select coalesce(pg_catalog.array_agg(a.attname::text order by a.attname collate "C"), '{}')
    from pg_catalog.pg_class c
    join pg_catalog.pg_attribute a
        on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    where c.oid = relation
      and (
          c.relreplident = 'f'
          or a.attnum in (select i.number from identity i)
          or exists (
              select from identity i join pg_catalog.pg_attribute g on g.attnum = i.number
              where g.attrelid = c.oid and g.attgenerated <> ''
          )
      )
$$;
