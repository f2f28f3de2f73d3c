-- Capture a table's changes from now on: the work of `pgoutbox install --table`.
--
-- Idempotent; called again it brings the triggers in line with its arguments, of which those that
-- are left out leave things as they are (capture_wanted()). Takes SHARE ROW EXCLUSIVE on the table
-- where a trigger has to be made or changed, and nothing where all is as it should be. True where
-- something was changed.
--
-- The row trigger's name sorts before RI_ConstraintTrigger: AFTER triggers fire by name, and
-- the event of a row must come before those of its foreign key's cascades. On a partitioned
-- table PostgreSQL clones it to every partition, also those attached later. A partition that
-- is captured under its own name shares its root's trigger, whose function knows its name,
-- and has one of its own for what its root isn't captured for, and for when it is detached.
create or replace function pgoutbox.capture_table(
    relation regclass,
    actions text[] default null,
    old_values text default null,
    widen boolean default false
) returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    reason constant text := pgoutbox.why_not_capture(relation);
    wanted record;
    before_all text;
    leaf regclass;
    is_changed boolean;
begin
    if reason is not null then
        raise exception '%', reason
            using errcode = 'wrong_object_type', hint = 'Name an ordinary or a partitioned table.';
    end if;
    select w.* into wanted
    from pgoutbox.capture_wanted(relation, actions, old_values, widen) w;
    select c::text into before_all
    from pgoutbox.captured_table c where c.relation = capture_table.relation;
    perform pgoutbox.claim_name(relation);
    insert into pgoutbox.captured_table as c
        (relation, schema_name, table_name, actions, old_values, shape)
    select relation, n.nspname, r.relname, wanted.actions, wanted.old_values, ''
    from pg_catalog.pg_class r join pg_catalog.pg_namespace n on n.oid = r.relnamespace
    where r.oid = capture_table.relation
    on conflict on constraint captured_table_pkey do update
    set schema_name = excluded.schema_name, table_name = excluded.table_name,
        actions = excluded.actions, old_values = excluded.old_values
    where (c.schema_name, c.table_name, c.actions, c.old_values) is distinct from
        (excluded.schema_name, excluded.table_name, excluded.actions, excluded.old_values);
    perform pgoutbox.refresh_capture(relation);
    perform pgoutbox.refresh_capture(c.relation)
    from pg_catalog.pg_partition_ancestors(capture_table.relation) a
    join pgoutbox.captured_table c on c.relation = a.relid
    where c.relation <> capture_table.relation;
    is_changed := pgoutbox.place_triggers(relation);
    for leaf in
        select p.relid from pg_catalog.pg_partition_tree(relation) p
        join pgoutbox.captured_table c on c.relation = p.relid
        where p.relid <> capture_table.relation
    loop
        -- Its function may be from when it was no partition, and know of no root.
        perform pgoutbox.refresh_capture(leaf);
        perform pgoutbox.place_triggers(leaf);
    end loop;
    return is_changed
        or before_all is distinct from (
            select c::text from pgoutbox.captured_table c where c.relation = capture_table.relation
        );
end
$$;
