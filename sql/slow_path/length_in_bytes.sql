-- How many bytes a text or bytea has; null for values of other types.
create or replace function pgoutbox.length_in_bytes(value anyelement) returns integer
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    return octet_length(value);
exception when undefined_function then
    return null;
end
$$;
