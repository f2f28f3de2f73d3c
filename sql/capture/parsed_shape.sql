-- A table's name, and the names and types of its columns, as the parser knows them.
--
-- Not asked of pg_attribute: a REPEATABLE READ transaction reads that as it was before an ALTER
-- TABLE of somebody else, while its rows have the columns of now. Null where it can't be told.
create or replace function pgoutbox.parsed_shape(relation oid) returns text
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    names text[];
    types oid[];
begin
    execute format(
        'select array(select json_object_keys(row_to_json(r))) from (select (null::%s).*) r',
        relation::regclass
    ) into names;
    execute format(
        'select array[%s]::oid[]',
        (
            select string_agg(format('pg_typeof((null::%s).%I)', relation::regclass, n), ', ')
            from unnest(names) n
        )
    ) into types;
    return pgoutbox.shape_text(relation, names, types);
exception when others then
    return null;
end
$$;
