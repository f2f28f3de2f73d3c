-- What becomes of a column by a choice (choice_of()): 'whole', 'hashed', or null: left out.
create or replace function pgoutbox.treatment_of(name text, choice jsonb) returns text
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select case
        when choice -> 'hash' ? name then 'hashed'
        when choice -> 'kept' ? name then 'whole'
        when choice -> 'except' ? name then null
        when choice ? 'columns' and not choice -> 'columns' ? name then null
        else 'whole' end
$$;
