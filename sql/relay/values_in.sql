-- The values of columns in a row as it was stored, as its JSON has them; null unless it has all
-- of them.
--
-- A parser of JSON goes as deep as a value is nested, which anybody may make deeper than
-- PostgreSQL's stack, and fails the read. A row of so few bytes can't be that deep.
create or replace function pgoutbox.values_in(stored text, columns text[]) returns text[]
    language plpgsql
    immutable
    strict
as $$
declare
    published pg_catalog.json;
    found_values pg_catalog.text[] := '{}';
    name pg_catalog.text;
    value pg_catalog.text;
begin
    if pg_catalog.octet_length(stored) operator(pg_catalog.<=) 2000 then
        published := pgoutbox.as_published(stored);
    end if;
    foreach name in array columns loop
        value := case when published is null then pgoutbox.value_in(stored, name)
            else published operator(pg_catalog.->>) name end;
        if value is null then
            return null;
        end if;
        found_values := pg_catalog.array_append(found_values, value);
    end loop;
    return nullif(found_values, '{}');
end
$$;
