-- The columns of an old row that logical decoding would give; none where it gives no old row.
--
-- All of `names` under REPLICA IDENTITY FULL, and where a column of the key isn't among them
-- because it is generated. Where the snapshot is older than the table, and no index tells, FULL
-- can't be told from NOTHING: then all, too, since too much harms nobody. So they are where columns
-- `were_left_out` of the rows, which then look equal.
create or replace function pgoutbox.identity_of_change(
    relation regclass, action text, new_values anyelement, old_values anyelement, names text[],
    were_left_out boolean
) returns text[]
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    key text[] := pgoutbox.identity_key(relation);
    is_nothing boolean;
    is_comparable boolean := true;
    is_unchanged boolean := false;
begin
    if key is null then
        select c.relreplident <> 'f' and not pgoutbox.is_outdated(c.xmax) into is_nothing
        from pg_class c where c.oid = relation;
        return case when is_nothing then '{}' else names end;
    end if;
    if not key <@ names then
        key := names;
        is_comparable := not were_left_out;
    end if;
    if action = 'UPDATE' and is_comparable then
        execute (
            select format(
                'select record_image_eq(row(%s), row(%s))',
                string_agg(format('($1).%I', name), ', '), string_agg(format('($2).%I', name), ', ')
            )
            from unnest(key) name
        ) into is_unchanged using new_values, old_values;
    end if;
    return case when is_unchanged then '{}' else key end;
end
$$;
