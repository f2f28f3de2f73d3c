-- What is asked for of a table's rows and columns, as captured_table.choice has it. What is null
-- isn't asked for; what is empty takes back what was.
create or replace function pgoutbox.asked_choice(
    condition text, columns text[], except_columns text[], hash_columns text[]
) returns jsonb
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select jsonb_strip_nulls(jsonb_build_object(
        'where', btrim(condition, E' \t\r\n'),
        'columns', to_jsonb(columns),
        'except', to_jsonb(except_columns),
        'hash', to_jsonb(hash_columns)
    ))
$$;
