-- An expression that renders a row, and raises where the result is too long to be worth it.
--
-- varchar() raises for text of so many characters, and is the cheapest that does: one function,
-- which looks at the length first. 64 MiB is the highest max_payload of a nats-server; four bytes
-- are the header that PostgreSQL counts among a type's modifier.
create or replace function pgoutbox.capped_source(expression text) returns text
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    select format('pg_catalog."varchar"(%s::pg_catalog.text, 67108868, false)', expression)
$$;
