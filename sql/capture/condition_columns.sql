-- What a condition sees of a row, `source`: the columns that it uses, as a list to select.
--
-- With the `types` that it was checked for (captured_table.condition_types). Of another type what
-- is built in may find a cast that somebody else has made, to run with the rights of this schema's
-- owner: so the query can't be parsed then.
create or replace function pgoutbox.condition_columns(types jsonb, source text) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select coalesce(string_agg(
        format('pgoutbox.same(%s.%I, null::%s) as %2$I', source, t.name, t.type), ', '
    ), '')
    from jsonb_each_text(types) t (name, type)
$$;
