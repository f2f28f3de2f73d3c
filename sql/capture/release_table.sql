-- Stop capturing a table: the work of `pgoutbox uninstall --table`.
--
-- Events that it has already written stay and are sent. Idempotent; true where the table was
-- captured. Partitions that are captured under their own names get triggers of their own.
create or replace function pgoutbox.release_table(relation regclass) returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    captured pgoutbox.captured_table;
    root regclass := pgoutbox.captured_root(relation);
    leaf regclass;
    shape regtype;
begin
    delete from pgoutbox.captured_table c where c.relation = release_table.relation
    returning c.* into captured;
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
        perform pgoutbox.refresh_capture(c.relation)
        from pg_partition_ancestors(release_table.relation) a
        join pgoutbox.captured_table c on c.relation = a.relid;
        for leaf in
            select p.relid from pg_partition_tree(relation) p
            join pgoutbox.captured_table c on c.relation = p.relid
        loop
            perform pgoutbox.refresh_capture(leaf);
            perform pgoutbox.place_triggers(leaf);
        end loop;
    end if;
    execute format('drop function if exists pgoutbox.capture_%s()', captured.number);
    -- Nobody writes: the triggers were dropped under a lock that keeps writers out.
    for shape in
        select t.oid from pg_type t
        where t.typnamespace = 'pgoutbox'::regnamespace
          and t.typname ~ ('^shape_' || captured.number || '_[0-9a-f]+$')
    loop
        execute format('drop type %s', shape);
    end loop;
    return true;
end
$$;
