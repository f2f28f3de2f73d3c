-- Capture a table's changes from now on: the work of `pgoutbox install --table`.
--
-- Idempotent; called again it brings the triggers in line with its arguments, of which those that
-- are left out leave things as they are (capture_wanted()). Takes SHARE ROW EXCLUSIVE on the table
-- where a trigger has to be made or changed, and nothing where all is as it should be. True where
-- something was changed.
--
-- `condition` says which rows are captured, `columns` or `except_columns` which columns, and of
-- `hash_columns` a keyed hash is; '' and '{}' take back what was said before (check_choice()).
--
-- Triggers are made with the rights of who calls, who has to own the table; what it takes in this
-- schema is done with the rights of its owner (note_capture()).
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
    widen boolean default false,
    condition text default null,
    columns text[] default null,
    except_columns text[] default null,
    hash_columns text[] default null
) returns boolean
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    reason constant text := pgoutbox.why_not_capture(relation);
    is_noted boolean;
    is_changed boolean;
    leaf regclass;
begin
    if reason is not null then
        raise exception '%', reason
            using errcode = 'wrong_object_type', hint = 'Name an ordinary or a partitioned table.';
    end if;
    -- What was captured under this name may be a partition of the table now: its rows are the
    -- table's, so that it needs no entry.
    perform pgoutbox.release_table(s.relation)
    from pgoutbox.table_state s
    where s.asked_name = pgoutbox.qualified_name(capture_table.relation)
      and s.relation <> capture_table.relation
      and capture_table.relation in (select pg_partition_ancestors(s.relation));
    is_noted := pgoutbox.note_capture(
        relation, actions, old_values, widen,
        pgoutbox.asked_choice(condition, columns, except_columns, hash_columns));
    is_changed := pgoutbox.place_triggers(relation);
    for leaf in
        select p.relid from pg_partition_tree(relation) p
        join pgoutbox.captured_table c on c.relation = p.relid
        where p.relid <> capture_table.relation
    loop
        perform pgoutbox.place_triggers(leaf);
    end loop;
    return is_changed or is_noted;
end
$$;
