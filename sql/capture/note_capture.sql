-- What capture_table() does inside this schema, with the rights of its owner: note the table, and
-- make its capture function. True where something was changed.
create or replace function pgoutbox.note_capture(
    relation regclass, actions text[], old_values text, widen boolean, choice jsonb
) returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    wanted record;
    before_all text;
begin
    perform pgoutbox.require_owner(relation);
    select w.* into wanted
    from pgoutbox.capture_wanted(relation, actions, old_values, widen, choice) w;
    perform pgoutbox.check_choice(relation, wanted.choice);
    if wanted.choice ? 'hash' then
        perform pgoutbox.make_hash_key();
    end if;
    select c::text into before_all
    from pgoutbox.captured_table c where c.relation = note_capture.relation;
    perform pgoutbox.claim_name(relation);
    insert into pgoutbox.captured_table as c
        (relation, schema_name, table_name, actions, old_values, choice, shape)
    select relation, n.nspname, r.relname, wanted.actions, wanted.old_values, wanted.choice, ''
    from pg_class r join pg_namespace n on n.oid = r.relnamespace
    where r.oid = note_capture.relation
    on conflict on constraint captured_table_pkey do update
    set schema_name = excluded.schema_name, table_name = excluded.table_name,
        actions = excluded.actions, old_values = excluded.old_values, choice = excluded.choice,
        condition_types = null  -- checked anew by refresh_capture()
    where (c.schema_name, c.table_name, c.actions, c.old_values, c.choice) is distinct from (
        excluded.schema_name, excluded.table_name, excluded.actions, excluded.old_values,
        excluded.choice)
        or c.choice ? 'where';
    perform pgoutbox.refresh_capture(relation);
    -- Those above name the rows of this one. The function of one below may be from when it was no
    -- partition, and know of no root.
    perform pgoutbox.refresh_capture(c.relation)
    from pgoutbox.captured_table c
    where c.relation <> note_capture.relation and (
        c.relation in (select pg_partition_ancestors(note_capture.relation))
        or c.relation in (select p.relid from pg_partition_tree(note_capture.relation) p));
    return before_all is distinct from (
        select c::text from pgoutbox.captured_table c where c.relation = note_capture.relation
    );
end
$$;
