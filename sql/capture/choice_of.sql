-- Which rows and columns of a captured table its events have; {} for all of them.
--
-- As captured_table has it, with the columns that are always kept, and with the number of the
-- function that has the condition (choose_source.sql) and the types for which it is evaluated.
create or replace function pgoutbox.choice_of(relation regclass) returns jsonb
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce((
        select c.choice || jsonb_build_object(
            'kept', to_jsonb(pgoutbox.kept_columns(c.relation)), 'number', c.number,
            'types', pgoutbox.condition_types(c.relation))
        from pgoutbox.captured_table c
        where c.relation = choice_of.relation and c.choice <> '{}'
    ), '{}')
$$;
