-- The statements that give a table the triggers that captured_table asks for, and take away others
-- of ours; for place_triggers(), which runs them with the rights of the table's owner.
--
-- The comparison is by the trigger's definition, so nothing is locked where nothing is to do.
--
-- A partition of a captured root has the root's trigger, which DETACH takes away. So where it is
-- captured itself it has another one, which leaves to the root's what that fires for. With the
-- table's number in its name, since PostgreSQL clones it to the partition's own partitions, of
-- which one can be captured, too.
create or replace function pgoutbox.trigger_changes(relation regclass) returns setof text
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    captured pgoutbox.captured_table;
    root constant regclass := pgoutbox.captured_root(relation);
    wanted record;
begin
    perform pgoutbox.note_always();
    select c.* into captured
    from pgoutbox.captured_table c where c.relation = trigger_changes.relation;
    for wanted in
        select
            kind.name,
            (
                select t.tgtype from pg_trigger t
                where t.tgrelid = relation and t.tgname = kind.name
                  and t.tgfoid = to_regproc(kind.function)
                  and (t.tgenabled = 'A'
                      or t.tgenabled = 'O' and kind.name <> all (captured.fires_always))
            ) as existing,
            exists (
                select from pg_trigger t where t.tgrelid = relation and t.tgname = kind.name
            ) as is_there,
            kind.function,
            (
                select string_agg(a, ' or ' order by a)
                from unnest(captured.actions) a where a = any (kind.actions) and kind.is_wanted
            ) as actions,
            -- Bits of pg_trigger.tgtype: row 1, insert 4, delete 8, update 16, truncate 32.
            kind.base + (
                select coalesce(pg_catalog.sum(case a
                    when 'INSERT' then 4 when 'DELETE' then 8 when 'UPDATE' then 16 else 32 end), 0)
                from unnest(captured.actions) a where a = any (kind.actions)
            ) as type,
            kind.level
        from (values
            ('00_pgoutbox', array['INSERT', 'UPDATE', 'DELETE'], 1, 'row',
             'pgoutbox.capture_' || captured.number, true),
            ('00_pgoutbox_alone_' || captured.number, array['INSERT', 'UPDATE', 'DELETE'], 1, 'row',
             'pgoutbox.capture_' || captured.number, root is not null),
            ('00_pgoutbox_truncate', array['TRUNCATE'], 0, 'statement',
             'pgoutbox.capture_truncate', true)
        ) kind (name, actions, base, level, function, is_wanted)
        where root is null or kind.name <> '00_pgoutbox'
    loop
        if wanted.existing is not distinct from wanted.type and wanted.actions is not null
            or not wanted.is_there and wanted.actions is null
        then
            continue;
        end if;
        if wanted.is_there then
            return next format('drop trigger %I on %s', wanted.name, relation);
        end if;
        if wanted.actions is not null then
            -- Make room on the partitions for the row trigger that is about to be cloned to them.
            return query
            select format('drop trigger %I on %s', wanted.name, p.relid::regclass)
            from pg_partition_tree(relation) p
            join pg_trigger t on t.tgrelid = p.relid and t.tgname = wanted.name
            -- Clones go with the trigger that they are clones of.
            where p.relid <> relation and wanted.name = '00_pgoutbox' and t.tgparentid = 0;
            return next format(
                'create trigger %I after %s on %s for each %s execute function %s()',
                wanted.name, wanted.actions, relation, wanted.level, wanted.function);
            if wanted.name = any (captured.fires_always) then
                return next format(
                    'alter table %s enable always trigger %I', relation, wanted.name);
            end if;
        end if;
    end loop;
end
$$;
