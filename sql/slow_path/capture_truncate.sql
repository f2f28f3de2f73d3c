-- Record a TRUNCATE of a captured table.
--
-- A partitioned table's own event is left out where each of its partitions is captured
-- under its own name, since these are told one by one, as wal-listener does. A TRUNCATE of a
-- single partition is not an event of the root: a consumer would take it for all of it.
create or replace function pgoutbox.capture_truncate() returns trigger
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (
        select from pg_catalog.pg_partition_tree(tg_relid) p where p.isleaf
    ) and not exists (
        select from pg_catalog.pg_partition_tree(tg_relid) p
        where p.isleaf and p.relid <> tg_relid
          and not exists (select from pgoutbox.captured_table c where c.relation = p.relid)
    ) and (select c.relkind = 'p' from pg_catalog.pg_class c where c.oid = tg_relid) then
        return null;
    end if;
    execute pg_catalog.format(
        'insert into pgoutbox.event_%s (xid, seq, opens, schema_name, table_name, action)
         values (pg_catalog.pg_current_xact_id(), pg_catalog.nextval(''pgoutbox.event_seq''), $1, $2, $3, $4)',
        pgoutbox.slot(pg_catalog.now())
    ) using
        case when pg_catalog.current_setting('pgoutbox.transaction', true) = pg_catalog.pg_current_xact_id()::text
                and coalesce(pg_catalog.left(pg_catalog.current_setting('pgoutbox.closed', true), 1), '') in ('', 'o')
            then false
            else pgoutbox.reopen() end,
        pgoutbox.as_utf8(tg_table_schema), pgoutbox.as_utf8(tg_table_name), tg_op;
    return null;
end
$$;
