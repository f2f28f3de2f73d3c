-- Stop capturing a table: the work of `pgoutbox uninstall --table`.
--
-- Events that it has already written stay and are sent. Idempotent; true where the table was
-- captured. Partitions that are captured under their own names get triggers of their own. Triggers
-- are dropped with the rights of who calls, as in capture_table().
create or replace function pgoutbox.release_table(relation regclass) returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    captured pgoutbox.captured_table;
    root constant regclass := pgoutbox.captured_root(relation);
    leaf regclass;
begin
    select c.* into captured
    from pgoutbox.captured_table c where c.relation = release_table.relation;
    if captured.relation is null then
        return false;
    end if;
    if exists (select from pg_class c where c.oid = relation) then
        execute format('drop trigger if exists "00_pgoutbox_truncate" on %s', relation);
        execute format(
            'drop trigger if exists "00_pgoutbox_alone_%s" on %s', captured.number, relation);
        if root is null then
            execute format('drop trigger if exists "00_pgoutbox" on %s', relation);
        end if;
    end if;
    perform pgoutbox.note_release(relation);
    for leaf in
        select p.relid from pg_partition_tree(relation) p
        join pgoutbox.captured_table c on c.relation = p.relid
    loop
        perform pgoutbox.place_triggers(leaf);
    end loop;
    return true;
end
$$;
