-- A row as the JSON object of an event, by the expressions that row_columns() made for it.
--
-- A column that can't be rendered, because its type's output function raises, does not fail
-- the write: its value is {"unrenderable": "<SQLSTATE>: <message>"}. So is one with which the row
-- would exceed 64 MiB, which no nats-server takes; PostgreSQL itself can't store two rows of more
-- than 1 GB together. Of text and bytes that is known before they are rendered. `large` says it of
-- columns whose values were left out of `changed` (too_large.sql).
create or replace function pgoutbox.render_row(
    changed anyelement, names text[], expressions text[], large jsonb default null
) returns text
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    most constant integer := 67108864;  -- bytes
    types regtype[];
    sizes integer[];
    as_json boolean;
    rendered text;
    part record;
    value text;
begin
    large := coalesce(large, '{}');
    -- Compressed to a three-hundredth at best, and six times as long as JSON at most.
    if pg_column_size(changed) >= 30000 and names <> '{}' then
        execute (
            select format('select array[%s]', string_agg(
                format('pg_typeof(($1).%I)', n.name), ', ' order by n.place))
            from unnest(names) with ordinality n (name, place)
        ) into types using changed;
        foreach as_json in array array[false, true] loop
            execute pgoutbox.sizes_source(names, types, large, as_json) into sizes using changed;
            large := large || pgoutbox.too_large(names, sizes);
            exit when (select coalesce(sum(size), 0) from unnest(sizes) size) < most / 6;
        end loop;
    end if;
    expressions := array(
        select case when large ? p.name and p.expression <> quote_literal('null')
            then quote_literal(json_build_object('unrenderable', large ->> p.name))
            else p.expression end
        from unnest(names, expressions) with ordinality p (name, expression, place)
        order by p.place
    );
    begin
        execute 'select ' || pgoutbox.object_expression(names, expressions)
        into rendered using changed;
        if octet_length(rendered) <= most then
            return rendered;
        end if;
    exception when others then
        null;
    end;
    rendered := '';
    for part in
        select p.name, p.expression from unnest(names, expressions) p (name, expression)
    loop
        begin
            execute 'select ' || part.expression into value using changed;
            if octet_length(rendered) + octet_length(value) > most then
                raise program_limit_exceeded using message = format(
                    '%s bytes as JSON, in a row of more than %s', octet_length(value), most);
            end if;
        exception when others then
            value := json_build_object('unrenderable', sqlstate || ': ' || sqlerrm);
        end;
        rendered := rendered || ',' || to_json(part.name)::text || ':' || value;
    end loop;
    return pgoutbox.as_utf8('{' || substr(rendered, 2) || '}');
end
$$;
