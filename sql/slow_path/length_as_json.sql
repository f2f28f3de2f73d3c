-- How many bytes a text has as JSON, at least; null where that can't be found out.
--
-- Counted by pieces of four million characters, since JSON can have six bytes for one.
create or replace function pgoutbox.length_as_json(value text) returns integer
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    length bigint := 0;
    rest text := value;
begin
    if value is null or octet_length(value) < 1048576 then
        return octet_length(value);
    end if;
    while rest <> '' loop
        length := length + octet_length(to_json(left(rest, 4000000))::text) - 2;
        rest := substr(rest, 4000001);
    end loop;
    return least(length, 2147483647);
exception when others then
    return null;
end
$$;
