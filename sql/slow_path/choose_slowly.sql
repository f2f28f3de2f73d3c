-- What a table's choose function (choose_source.sql) returns, by its condition as it is read now:
-- that function may have been planned for columns that have changed since. With the same settings.
create or replace function pgoutbox.choose_slowly(
    condition text, types jsonb, action text, new_values anyelement, old_values anyelement
) returns text
    language plpgsql
    set search_path = pg_catalog, pg_temp
    set standard_conforming_strings = on
    set transform_null_equals = off
    set timezone = 'UTC'
    set datestyle = 'ISO, MDY'
    set intervalstyle = 'postgres'
as $$
declare
    question text;
    is_new boolean := false;
    is_old boolean := false;
begin
    -- As in condition_types(), of the row's own types.
    execute (
        select format('select jsonb_build_object(%s)', string_agg(format(
            '%1$L, case when pg_typeof(($1).%1$I)::oid < 16384 '
            'then pg_typeof(($1).%1$I)::text else %2$L end', t.name, t.type), ', '))
        from jsonb_each_text(types) t (name, type)
    ) into types using new_values;
    question := format(
        E'select (%s\n) is true from (select %s) row_of_table',
        condition, pgoutbox.condition_columns(types, '($1)'));
    if action <> 'DELETE' then
        execute question into is_new using new_values;
    end if;
    if action <> 'INSERT' then
        execute question into is_old using old_values;
    end if;
    return case when is_new and is_old then action
        when is_new then 'INSERT' when is_old then 'DELETE' end;
end
$$;
