-- A value as JSON string of its text form: what wal-listener makes of every type that it
-- doesn't know.
--
-- concat() calls the type's output function. A cast to text would not do: it strips blanks
-- from char(n), adds a netmask to inet, and users can define others.
create or replace function pgoutbox.wal_text(value anyelement) returns json
    language sql
    stable
as $$
    -- IS DISTINCT FROM NULL is true for a composite value whose fields are all null.
    select case when value is distinct from null
        then pg_catalog.to_json(pg_catalog.concat(value))
        else 'null'::pg_catalog.json end
$$;
