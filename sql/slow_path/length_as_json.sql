-- How many bytes a text or bytea has as JSON, at least; null for values of other types.
--
-- Counted by pieces of four million characters, since JSON can have six bytes for one.
create or replace function pgoutbox.length_as_json(value anyelement) returns integer
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    length bigint := pgoutbox.length_in_bytes(value);
    rest text;
begin
    if length is null or length < 1048576 then
        return length;
    elsif pg_typeof(value) = 'bytea'::regtype then
        return least(length * 2, 2147483647);
    end if;
    length := 0;
    rest := value;
    while rest <> '' loop
        length := length + octet_length(to_json(left(rest, 4000000))::text) - 2;
        rest := substr(rest, 4000001);
    end loop;
    return least(length, 2147483647);
end
$$;
