-- Whether a change of a table's rows can queue a check that runs at COMMIT: one of a deferrable
-- constraint, also of a foreign key of another table, or a constraint trigger.
create or replace function pgoutbox.may_defer(relation regclass) returns boolean
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select from pg_trigger t
        where t.tgdeferrable and (
            t.tgrelid = relation
            or t.tgrelid in (select p.relid from pg_partition_tree(relation) p)
        )
    )
$$;
