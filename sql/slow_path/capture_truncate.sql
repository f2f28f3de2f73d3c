-- Record a TRUNCATE of a captured table.
--
-- A partitioned table's own event is left out where each of its partitions is captured
-- under its own name, since these are told one by one, as wal-listener does. A TRUNCATE of a
-- single partition is not an event of the root: a consumer would take it for all of it. Where the
-- snapshot may be too old to tell, rather one event too many.
create or replace function pgoutbox.capture_truncate() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (
        select from pg_partition_tree(tg_relid) p where p.isleaf
    ) and not exists (
        select from pg_partition_tree(tg_relid) p
        where p.isleaf and p.relid <> tg_relid
          and not exists (
              select from pgoutbox.captured_table c
              where c.relation = p.relid and not pgoutbox.is_outdated(c.xmax)
          )
    ) and (select c.relkind = 'p' from pg_class c where c.oid = tg_relid) then
        return null;
    end if;
    perform pgoutbox.capture_unusual(
        pgoutbox.slot(now()),
        row(
            pgoutbox.as_utf8(tg_table_schema), pgoutbox.as_utf8(tg_table_name), tg_op, tg_relid,
            pg_trigger_depth(), null, null, null, null, null, null
        )::pgoutbox.event_facts,
        null, null);
    return null;
end
$$;
