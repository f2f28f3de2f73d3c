-- The value of one column in a row as it was stored; null where that is NULL, or there is none.
--
-- Found without a look at what the other values are made of. In a row a name has a comma or the
-- brace before it and a colon right behind it, and values have neither: strings escape their
-- quotation marks, and PostgreSQL writes jsonb with a space behind each comma and colon. So a
-- value ends at the first comma outside of strings that no space follows. A name begins with a
-- control character where the value before it is a time stamp (as_published.sql).
create or replace function pgoutbox.value_in(stored text, name text) returns text
    language plpgsql
    immutable
    strict
as $$
declare
    mark pg_catalog.text;
    start pg_catalog.int4 := 0;  -- of the value, in characters
    width pg_catalog.int4 := 500;
    rest pg_catalog.text;
    value pg_catalog.text;
    following pg_catalog.text;
begin
    foreach mark in array array[name, pg_catalog.concat(E'\x02', name)] loop
        mark := pg_catalog.concat(pg_catalog.to_json(mark), ':');
        if pg_catalog.starts_with(stored, pg_catalog.concat('{', mark)) then
            start := 1;
        else
            start := pg_catalog.strpos(stored, pg_catalog.concat(',', mark));
        end if;
        exit when start operator(pg_catalog.>) 0;
    end loop;
    if start operator(pg_catalog.=) 0 then
        return null;
    end if;
    start := start operator(pg_catalog.+) 1 operator(pg_catalog.+) pg_catalog.length(mark);
    loop
        rest := pg_catalog.substr(stored, start, width);
        value := pg_catalog.substring(rest, E'^(?:"(?:[^"\\\\]|\\\\.)*"|[^",]|, )*');
        following := pg_catalog.substr(
            rest, pg_catalog.length(value) operator(pg_catalog.+) 1, 9);
        exit when pg_catalog.length(rest) operator(pg_catalog.<) width
            or pg_catalog.length(following) operator(pg_catalog.=) 9
                and pg_catalog.starts_with(following, ',');
        width := width operator(pg_catalog.*) 8;
    end loop;
    if following operator(pg_catalog.=) '' then
        value := pg_catalog.left(value, -1);  -- the row's brace
    elsif pg_catalog.starts_with(following, E',"\\u0002') then
        value := pg_catalog.left(
            pgoutbox.as_published(pg_catalog.concat(value, E',"\\u0002":null}')), -1);
    end if;
    return case
        when value operator(pg_catalog.=) 'null' then null
        when pg_catalog.starts_with(value, '"')
        then value::pg_catalog.json operator(pg_catalog.#>>) '{}'
        else value end;
end
$$;
