-- The body of the function that tells what a change is to a table's events, by its condition: the
-- action, or null where both rows are left out.
--
-- An UPDATE that crosses the border is an INSERT or a DELETE, as with a publication's WHERE. The
-- condition is what somebody has written and check_condition() has read, so that names in it mean
-- what they meant there: the row's columns, and what pg_catalog has.
create or replace function pgoutbox.choose_source(condition text, types jsonb) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select format($body$
#variable_conflict use_column
declare
    is_new boolean := false;
    is_old boolean := false;
begin
    if action <> 'DELETE' then
        is_new := (select (%1$s
) from (select %2$s) row_of_table) is true;
    end if;
    if action <> 'INSERT' then
        is_old := (select (%1$s
) from (select %3$s) row_of_table) is true;
    end if;
    return case when is_new and is_old then action
        when is_new then 'INSERT' when is_old then 'DELETE' end;
end
$body$,
        condition,
        pgoutbox.condition_columns(types, '(new_values)'),
        pgoutbox.condition_columns(types, '(old_values)'))
$$;
