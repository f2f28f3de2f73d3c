-- Have a captured table's triggers fire in sessions with session_replication_role = replica, too,
-- or no longer; true where that is a change. Runs with the rights of who calls, as capture_table().
create or replace function pgoutbox.fire_always(relation regclass, always boolean) returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    trigger record;
    is_changed boolean := false;
begin
    -- Partitions have clones, which follow their table's trigger on some versions only.
    for trigger in
        select t.tgrelid::regclass as relation, t.tgname
        from pg_trigger t
        join pgoutbox.captured_table k on k.relation = fire_always.relation
        where t.tgenabled <> case when always then 'A' else 'O' end
          and t.tgname in ('00_pgoutbox', '00_pgoutbox_alone_' || k.number, '00_pgoutbox_truncate')
          and (t.tgrelid = k.relation
              or t.tgrelid in (select p.relid from pg_partition_tree(fire_always.relation) p)
              and t.tgparentid <> 0)
    loop
        is_changed := true;
        execute format(
            'alter table %s enable %s trigger %I',
            trigger.relation, case when always then 'always' else '' end, trigger.tgname);
    end loop;
    return pgoutbox.note_fires_always(relation, always) or is_changed;
end
$$;
