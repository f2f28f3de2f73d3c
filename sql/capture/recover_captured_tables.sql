-- Note as captured what has a trigger of ours but no row in captured_table.
--
-- The trigger tells the table's actions, its function's name the table's number, and the
-- function's comment how much of old rows its events have, and which rows and columns
-- (refresh_capture()).
create or replace function pgoutbox.recover_captured_tables() returns void
    language sql
    set search_path = pg_catalog, pg_temp
as $$
    insert into pgoutbox.captured_table
        (relation, number, schema_name, table_name, actions, old_values, choice, shape)
        overriding system value
    select
        t.tgrelid, substring(p.proname, '[0-9]+')::integer, n.nspname, c.relname,
        -- Bits of pg_trigger.tgtype: insert 4, delete 8, update 16.
        array_remove(array[
            case when t.tgtype & 4 <> 0 then 'INSERT' end,
            case when t.tgtype & 16 <> 0 then 'UPDATE' end,
            case when t.tgtype & 8 <> 0 then 'DELETE' end,
            case when exists (
                select from pg_trigger u
                where u.tgrelid = t.tgrelid and u.tgname = '00_pgoutbox_truncate'
            ) then 'TRUNCATE' end
        ], null),
        coalesce(split_part(obj_description(p.oid, 'pg_proc'), ' ', 1), 'full'),
        coalesce(substring(obj_description(p.oid, 'pg_proc'), ' ({.*)$')::jsonb, '{}'), ''
    from pg_trigger t
    join pg_proc p on p.oid = t.tgfoid and p.pronamespace = 'pgoutbox'::regnamespace
    join pg_class c on c.oid = t.tgrelid
    join pg_namespace n on n.oid = c.relnamespace
    where p.proname ~ '^capture_[0-9]+$' and t.tgparentid = 0
    on conflict do nothing;
    select setval(pg_get_serial_sequence('pgoutbox.captured_table', 'number'), max(t.number))
    from pgoutbox.captured_table t;
$$;
