-- What a table's capture function would have rendered, for the table as it is now.
--
-- Called by a capture function whose guards say that it no longer fits: the table has
-- drifted, or the session's settings would show in the text of a value. Builds everything
-- from the catalog with dynamic SQL: about 0.1 ms a row, but never wrong. The settings below
-- are those of a freshly installed server; lc_monetary is what it was at install, since
-- a money value has no currency of its own.
create or replace function pgoutbox.capture_slowly(
    relation oid, action text, new_values anyelement, old_values anyelement,
    out schema_name text, out table_name text, out new_row text, out old_row text
)
    language plpgsql
    set search_path = pg_catalog, pg_temp
    set datestyle = 'ISO, MDY'
    set intervalstyle = 'postgres'
    set timezone = 'UTC'
    set extra_float_digits = 1
    set bytea_output = 'hex'
    set lc_monetary from current
as $$
declare
    captured pgoutbox.captured_table;
    kind_of_old_values text;
    identity text[];
    is_key_unchanged boolean;
begin
    select c.* into captured
    from pgoutbox.captured_table c where c.relation = pgoutbox.captured_as(capture_slowly.relation);
    select n.nspname, r.relname into schema_name, table_name
    from pg_catalog.pg_class r join pg_catalog.pg_namespace n on n.oid = r.relnamespace
    where r.oid = coalesce(captured.relation, relation);
    if action <> 'DELETE' then
        new_row := pgoutbox.render_row(relation, new_values);
    end if;
    if action <> 'INSERT' then
        -- Those of the outermost table that is captured for it: its trigger is the one that fires.
        select c.old_values into kind_of_old_values
        from pg_catalog.pg_partition_ancestors(relation) with ordinality a (relid, distance)
        join pgoutbox.captured_table c on c.relation = a.relid
        where action = any (c.actions)
        order by a.distance desc
        limit 1;
        if coalesce(kind_of_old_values, captured.old_values) = 'identity' then
            identity := pgoutbox.identity_columns(relation);
            if action = 'UPDATE' and identity <> '{}'
                and (select r.relreplident <> 'f' from pg_catalog.pg_class r where r.oid = relation)
            then
                execute (
                    select pg_catalog.format(
                        'select pg_catalog.record_image_eq(row(%s), row(%s))',
                        pg_catalog.string_agg(pg_catalog.format('($1).%I', name), ', '),
                        pg_catalog.string_agg(pg_catalog.format('($2).%I', name), ', ')
                    )
                    from pg_catalog.unnest(identity) name
                ) into is_key_unchanged using new_values, old_values;
            end if;
            if identity <> '{}' and is_key_unchanged is not true then
                old_row := pgoutbox.render_row(relation, old_values, identity);
            end if;
        else
            old_row := pgoutbox.render_row(relation, old_values);
        end if;
    end if;
end
$$;
