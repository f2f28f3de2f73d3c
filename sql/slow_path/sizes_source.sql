-- The query for the sizes of a row's texts and bytes, of the row $1: an array in bytes, as they are
-- or as JSON. Null for other types, and for what is `large` already.
create or replace function pgoutbox.sizes_source(
    names text[], types regtype[], large jsonb, as_json boolean
) returns text
    language sql
    stable
    set search_path = pg_catalog, pg_temp
as $$
    select format('select array[%s]::integer[]', string_agg(
        case
            when large ? c.name or pgoutbox.is_text_or_bytes(c.type) is not true then 'null'
            when not as_json then format('octet_length(($1).%I)', c.name)
            when pgoutbox.base_type(c.type) = 'bytea'::regtype
            then format('2 * octet_length(($1).%I)', c.name)
            else format('pgoutbox.length_as_json(($1).%I)', c.name) end,
        ', ' order by c.place))
    from unnest(names, types) with ordinality c (name, type, place)
$$;
