-- A row as the JSON object of an event, by the expressions that row_columns() made for it.
--
-- A column that can't be rendered, because its type's output function raises, does not fail
-- the write: its value is {"unrenderable": "<SQLSTATE>: <message>"}. So is one with which the row
-- would exceed 64 MiB, which no nats-server takes; PostgreSQL itself can't store two rows of more
-- than 1 GB together. Text and bytes of that size are known by their length, and not rendered.
create or replace function pgoutbox.render_row(changed anyelement, names text[], expressions text[])
    returns text
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    most constant integer := 67108864;  -- bytes
    total bigint := 0;
    size integer;
    rendered text;
    part record;
    value text;
begin
    -- Compressed to a three-hundredth at best.
    if pg_column_size(changed) > 200000 then
        for part in select p.name, p.place from unnest(names) with ordinality p (name, place) loop
            begin
                execute format('select octet_length(($1).%I)', part.name) into size using changed;
                total := total + coalesce(size, 0);
                if size > most then
                    expressions[part.place] := quote_literal(json_build_object(
                        'unrenderable', format('54000: %s bytes, of at most %s', size, most)));
                end if;
            exception when undefined_function then
                null;
            end;
        end loop;
    end if;
    if total <= most then
        begin
            execute 'select ' || pgoutbox.object_expression(names, expressions)
            into rendered using changed;
            if octet_length(rendered) <= most then
                return rendered;
            end if;
        exception when others then
            null;
        end;
    end if;
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
