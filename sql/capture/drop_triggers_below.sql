-- Make room on the partitions of `root` for the row trigger that it is about to clone to them.
create or replace function pgoutbox.drop_triggers_below(root regclass, trigger_name text)
    returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    leaf regclass;
begin
    for leaf in
        select p.relid from pg_catalog.pg_partition_tree(root) p
        join pg_catalog.pg_trigger t on t.tgrelid = p.relid and t.tgname = trigger_name
        -- Clones go with the trigger that they are clones of.
        where p.relid <> root and trigger_name = '00_pgoutbox' and t.tgparentid = 0
    loop
        execute pg_catalog.format('drop trigger %I on %s', trigger_name, leaf);
    end loop;
end
$$;
